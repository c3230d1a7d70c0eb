"""Support situations about the customer's account: login, profile, privacy. Notation: see `phrases.Issue`."""

TOPIC = "account"

ISSUES = """
# high
? I [cannot|can not|can no longer|am unable to] [log in|sign in|get into my account] [any more|since {date}|at all].
? I am locked out of my account [after {n} tries|since this morning|and need my orders].
? My account [was|has been|is] [locked|blocked|suspended|disabled] [without a reason|and I do not know why].
? Your site says my account does not exist, but I have [ordered here for years|an open order {order}].
! I have unlocked your account. Please set a new password with the link that I sent to {email}.
! I am sorry that you are locked out. I have reset the login for {email}, so please try again now.
= is locked out of the account and cannot log in
= says the account was blocked without a reason
= cannot sign in since {date}

# high
? [Someone|Somebody] [hacked|got into|took over] my account and [changed|replaced] [the email|my address|the password].
? I got [a mail|a notice] about a login from {city}, but [that was not me|I have never been there].
? There are orders in my account that I did not make, I think it was [hacked|stolen].
! I have closed all open sessions and locked the account of {email}. Please choose a new password and turn on two-factor login.
! Thank you for telling us about the login from {city}. I have locked the account until you set a new password.
= believes the account was hacked from {city}
= reports an unknown login from {city}
= found strange orders and thinks the account was stolen

# normal
? The password reset [mail|email|link] [never comes|does not arrive|has expired|does not work].
? I [forgot|lost|do not remember] my password [and the hint|], how can I [reset|change|recover] it?
? The reset link [opens an empty page|says invalid|is dead] every time.
? I asked for a new password {n} times and [no email came|got nothing], also not in the spam folder.
? My new password is [refused|not accepted], it says too short.
! I have sent a new reset link to {email}. It is valid for {n} hours.
! You can set a new password on the login page. Please look in the spam folder for our mail to {email}.
= does not get the password reset mail
= forgot the password and wants to reset it
= says the reset link does not work

# normal
? Please change the email [address|] [of|on|for] my account to {email}.
? I have a new [email|phone number|surname|name], how do I [update|change] it in my profile?
? My name is spelled wrong in [my profile|the account], it should be {name}.
? I got married, please change my name to {name}.
? The profile page does not [save|keep] my new phone number.
! I have changed the email address of your account to {email}.
! Your profile now shows the name {name}. Please log in again to see it.
= wants to change the account email to {email}
= wants the name in the profile changed to {name}
= cannot save a new phone number in the profile

# normal
? I [do not get|never receive] the [code|verification code|SMS code|six digit code] for the two-factor login.
? I [lost|changed|broke] my phone and [the two-factor codes are gone|cannot confirm the login].
? How do I [turn off|switch off|disable|set up] two-factor [authentication|login] [for my account|]?
? The authenticator app shows a code but your login [rejects|refuses] it.
! I have sent you backup codes for the two-factor login to {email}.
! I have turned off the two-factor login until you set it up again on your new phone.
= does not receive the two-factor code
= lost the phone with the two-factor codes
= asks how to turn off two-factor login

# normal
? Please [delete|remove|close] my account [and all my data|completely|].
? I want you to [erase|delete] [everything|all personal data] you store about me, as the privacy law says.
? How can I [close|delete] my account with the address {email}?
? Send me a copy of [my data|all data you have about me], please.
! I have started the deletion of the account {email}. All data will be gone in {days} days.
! You will get a copy of your data at {email} within {n} days.
= wants the account {email} deleted
= asks to erase all personal data
= asks for a copy of stored personal data

# low
? How do I [unsubscribe|get off|sign off] from your [newsletter|mailing list|marketing mails]?
? Can I have two [profiles|users|logins] in one account?
? Where can I [see|find] my [old orders|order history|loyalty points] in the account?
? Is there a way to change the [language|picture|nickname] of my profile?
? How do I create [an account|a business account]?
? Out of curiosity, can one account be shared [with my family|by two people]?
! You can find your order history under my orders after you log in.
! I have taken {email} off the newsletter list.
= wants to unsubscribe from the newsletter
= asks where to find the order history
= asks whether an account can have two profiles

# normal
? I have two accounts with {email} and {email2}, can you [merge|join|combine] them?
? My [loyalty points|bonus points|wish list|saved addresses] [disappeared|are gone] from my account.
? The [registration|sign up] [form|page] says that {email} is already [used|taken|registered].
? I never got the [confirmation|welcome|activation] mail for my new account.
? My order {order} does not show in my account.
! I have merged the accounts {email} and {email2}. Your points are all there.
! I have sent the activation mail again to {email}.
= wants to merge the accounts {email} and {email2}
= says the loyalty points are gone
= never got the activation mail for the new account

# high
? I must [log in|get into my account] [today|before {day}] because [my licence ends|the invoice is due|I travel on {day}].
? [Nobody|No one] [answers|helps] and I am still locked out after {n} weeks! [This is ridiculous|Fix this now].
? A stranger can see my address and orders [in his account|after he logs in], that is a data leak!
! I am very sorry. I have marked this as urgent and our security team is looking at the account {email} now.
! I have unlocked your account now, so you can log in before {day}.
= is still locked out after {n} weeks and is angry
= must log in before {day}
= reports that a stranger can see personal data

# low
? Thanks for unlocking my account so [fast|quickly].
? The login page has a small [typo|spelling mistake], [just letting you know|no big deal].
? It would be nice to have a dark mode in my account [some day|one day].
! Thank you, I am glad that the login works again.
! Thank you for the hint about the login page. I have passed it on.
= says thanks for unlocking the account
= reports a small typo on the login page

# normal
? I am logged out [every few minutes|all the time|again and again] and must enter my password [each time|again].
? The website [does not recognise|rejects] my username {name}.
? The app asks me to sign in with {email} but I registered with my phone number.
? My employee left and we need to move the business account to {name}.
! I have moved the account to {name} and sent a mail to {email}.
! Please delete the cookies of our site and log in once more with {email}.
= is logged out of the account all the time
= wants the business account moved to {name}
"""

NOUNS = """
a forgotten password|a locked account|a login error|a username|a profile picture|an email change|a new phone number|
two-factor codes|a backup code|a hacked account|an account deletion|personal data|a privacy request|a newsletter|
a sign up form|a verification code|a duplicate account|loyalty points|an order history|a security question|
an unknown login|a logged out session|a reset link|a business account|an activation mail|a changed surname
"""
