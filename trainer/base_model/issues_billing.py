"""Support situations about money: charges, invoices, refunds owed, ways to pay. Notation: see `phrases.Issue`."""

TOPIC = "billing"

ISSUES = """
# high
? [I was|I have been|I got|We were] [charged|billed] [twice|two times|double] for [my order|order] {order}.
? There are two [payments|charges|debits] of {amount} on my {card} statement, but I [only ordered|bought only] one
  {product}.
? [You took|Your shop took] {amount} from my [account|card] [twice|two times] for [the|one] {product}.
? Why does my bank show [a double|the same] charge for order {order}?
! [I can see|I found] the second charge of {amount} and have asked [accounting|our payments team] to return it. The
  money should be back on your {card} [within|in] {n} working days.
! I am sorry that you were charged twice for order {order}. I have started the refund of the second payment.
= [was charged|got charged|is charged] twice for order {order} and wants the second charge refunded
= found two charges of {amount} for one {product}
= reports a double charge on order {order}

# high
? You [took|deducted|withdrew] {amount} from my [card|account] and I never ordered anything.
? There is a [payment|charge] of {amount} to your shop [that I do not recognise|I never authorised|I know nothing about].
? [Someone|Somebody] used my {card} on your [site|website] without permission. This looks like fraud.
? I see an unknown [transaction|debit] of {amount} from {date} on my bank statement.
! I understand the worry about the charge of {amount}. I have passed it to our payments team, and please also tell your
  bank that you did not make it.
! Thank you for telling us about the unknown charge. We have blocked further payments while the team looks into {amount}.
= sees an unauthorised charge of {amount} and suspects fraud
= does not recognise a payment of {amount} from {date}
= reports that a card was used without permission

# high
? I cancelled order {order} on {date} and you still [took|charged|kept] {amount}.
? The order was cancelled but [my money is gone|the money was taken anyway|I was billed all the same].
? My subscription was cancelled [weeks|months] ago, yet {amount} [was taken|went out] again on {date}.
! Order {order} was indeed cancelled, so the {amount} should not have been taken. I have arranged a full refund.
! I am sorry that we charged you after the cancellation. The amount of {amount} goes back to your {card} today.
= was charged {amount} after cancelling order {order}
= cancelled but the money was taken anyway and wants it back

# normal
? I [returned|sent back] the {product} on {date} and [the refund has not arrived|still have no refund|am waiting for my
  money].
? Where is my refund of {amount} for order {order}?
? You promised [a refund|my money back] within {n} days, that was {n2} days ago.
? The refund for the {product} is still missing from my [account|bank statement].
? It has been {n} weeks since the [credit|refund] was promised and nothing has reached my {card}.
! I checked the refund of {amount} for order {order}. It was approved and should reach your {card} in {n} working days.
! I am sorry that the refund for your {product} takes so long. I have asked the payments team to send it [today|now].
= is waiting for the refund of {amount} for order {order}
= has not received the refund for the returned {product}
= asks where the promised refund is

# normal
? Could you send me [an invoice|a receipt|a VAT invoice|the bill] for order {order}?
? I need [an invoice|a proper receipt] with our company name and tax number for [the accountant|my tax return|bookkeeping].
? The invoice for order {order} has the wrong [address|company name|VAT number|total] on it.
? I cannot find [the invoice|a receipt] for the {product} anywhere.
? My [accounting department|bookkeeper] asks for a corrected invoice for order {order}.
! I have sent the invoice for order {order} to your email address. It shows the tax and the company name.
! A corrected invoice for order {order} is on its way to your inbox.
= needs [an invoice|a VAT invoice] for order {order}
= asks for a corrected invoice for order {order}
= wants a receipt for the {product}

# normal
? The price on [the invoice|my bill] is {amount}, but the website said {amount2}.
? I was charged {amount} instead of the [advertised|sale|offer] price of {amount2} for the {product}.
? My discount code was not [applied|taken off|accepted] at checkout and I paid the full {amount}.
? The voucher worth {amount2} did not come off the total of order {order}.
? You added a [delivery|shipping|service|handling] fee of {amount2} that was not shown before I paid.
! The {product} should have cost {amount2}, and I have refunded the difference for order {order}.
! I am sorry about the wrong price. I have corrected the bill and the difference goes back to your {card}.
= was charged {amount} instead of {amount2} for the {product}
= says the discount code was not applied to order {order}
= asks about an unexpected fee of {amount2}

# normal
? My payment for the {product} [fails|is declined|does not go through] every time I try with {card}.
? The checkout says payment declined although [my card is fine|there is enough money on the card].
? I paid with {card} but the order still says awaiting payment.
? Paying by {card} just gives an error and the [basket|cart] is empty afterwards.
! It seems that the payment with {card} was not completed, and nothing was taken. Please try once more or use another card.
! I am sorry that the payment fails. I have reset the payment of your order, so {card} should work now.
= cannot pay for the {product} because the {card} payment is declined
= says payment with {card} fails at checkout
= paid but the order still waits for payment

# low
? Which [payment methods|ways to pay] do you [accept|take|offer]?
? Can I pay [by|with] {card}, or only by [bank transfer|credit card]?
? Is it possible to pay for the {product} in [instalments|monthly payments|three parts]?
? Do you [take|accept] gift cards together with {card}?
? Can I [split|divide] the payment between a gift card and my credit card?
! We accept {card}, bank transfer and gift cards. You can choose the method at checkout.
! Yes, you can pay in instalments for orders above {amount}. Choose the option at checkout.
= asks which payment methods are accepted
= wants to know whether {card} can be used
= asks about paying for the {product} in instalments

# normal
? Please change the [payment method|card|credit card] for my [subscription|order|plan] from {card} to {card2}.
? My card [has expired|was replaced|was stolen] and I need to [update|change] the billing details.
? How do I [remove|replace] the old card from my payments before the next charge?
! I have opened the payment settings for you, so you can replace {card} by {card2} before the next charge.
! You can update the card under payments in your profile. The next charge will use the new card.
= wants to change the payment method from {card} to {card2}
= needs to update an expired card

# normal
? I want to [cancel|stop|end] the [premium|cloud|monthly] subscription so that no more money is taken.
? Your subscription went up from {amount2} to {amount} [without warning|and nobody told me].
? The free trial [ended|is over] and I was billed {amount} [without a reminder|although I never agreed].
! I have cancelled the subscription, and no more payments will be taken. The last charge was {amount}.
! The new price of the subscription is {amount}. I have refunded the difference for this month.
= wants to cancel the monthly subscription
= complains that the subscription price rose to {amount}
= was billed {amount} after a free trial

# high
? You were [supposed|meant] to refund {amount} and instead you charged me again! I want my money back [now|today|at once].
? This is theft. {amount} is missing from my account because of your mistake with order {order}.
? My rent bounced because you took {amount} too much for the {product}.
! I am very sorry about the wrong charge of {amount}. I have sent it back now and marked your case as urgent.
! You are right to be upset. The {amount} taken for order {order} will be returned to your {card} today.
= was wrongly charged {amount} again and demands the money back
= is angry about {amount} taken by mistake on order {order}

# low
? Does the price of {amount} [include|already include] [tax|VAT|all taxes]?
? When will the [charge|payment] for my pre-order be taken?
? Is there a [student|loyalty|bulk] discount on the bill if I buy {n} of them?
? Thank you for the quick refund of {amount}, [all good now|everything is settled].
? Just wondering when the next [invoice|payment] is due, no rush.
! The price of {amount} includes all taxes. The payment is taken when the parcel leaves our store.
! Thank you for your kind words. I have noted that the refund of {amount} has arrived.
= asks whether the price of {amount} includes tax
= asks when the payment is taken
= says thanks for the refund of {amount}
"""

NOUNS = """
an invoice|a receipt|a refund|a double charge|an unknown charge|a wrong price|a discount code|a voucher|a gift card|
a credit note|a declined card|a bank transfer|an expired card|a direct debit|a payment plan|instalments|tax on a bill|
a VAT number|a statement|a service fee|a late fee|money taken by mistake|a missing credit|a subscription price|
a billing address|a chargeback|a deposit|a coupon|an unpaid bill|a payment error
"""
