"""Support situations about delivery: tracking, delays, addresses, carriers. Notation: see `phrases.Issue`."""

TOPIC = "shipping"

ISSUES = """
# normal
? Where is my [order|parcel|package|delivery]? I [ordered|bought] the {product} on {date}.
? My {product} [has not arrived|has not come yet|is still not here|never showed up], the order number is {order}.
? Order {order} should have [arrived|been delivered|been here] on {date}.
? I have been waiting [for|] {n} weeks for [my|the] {product}.
? It has been {n} days since you [shipped|sent|dispatched] order {order} and nothing has [come|arrived|turned up].
? Any [news|update] on the [delivery|parcel] with the {product}?
! I am sorry that your {product} is late. I have asked {courier} about order {order} and will write as soon as they answer.
! Order {order} left our store on {date}, and {courier} should bring it within {n} days.
! Your {product} is still with {courier}. I have opened a search for the parcel.
= is waiting for the {product} from order {order}
= asks where order {order} is
= says the {product} has not arrived after {n} days

# normal
? The tracking [page|link|number] [does not work|shows nothing|has not changed|has not moved] since {date}.
? Tracking for order {order} [still says|says] [label created|in transit|at the depot|out for delivery].
? I never got a tracking [number|link|code] for my {product}.
? {courier} says the tracking number for order {order} is unknown.
? The [app|website] shows my parcel stuck in {city} [for days|since {date}].
! The tracking for order {order} is updated by {courier} once a day. I have sent you a fresh link.
! I see that the parcel is in {city}. {courier} should bring your {product} in {n} days.
= says tracking for order {order} has not changed since {date}
= never got a tracking number for the {product}
= asks about a parcel stuck in {city}

# normal
? I [typed|gave|entered] the wrong [address|street|house number|postcode] for order {order}, can you change it?
? We [moved|have moved|are moving] to {city}, please send the {product} to the new address.
? Please deliver order {order} to my [office|neighbour|work|parents] instead.
? The address on my order is [wrong|old|out of date], can it be [corrected|changed] before it ships?
? Can you [redirect|reroute] the parcel to a pickup point in {city}?
! I have changed the delivery address of order {order} to {city}. {courier} will use the new one.
! The parcel with your {product} has not left yet, so I could correct the address.
= wants order {order} sent to a new address in {city}
= gave a wrong address for order {order}
= asks to redirect the parcel to {city}

# normal
? Tracking says [delivered|left at the door|handed over] but [there is no parcel|I have nothing|nothing is here].
? {courier} claims that order {order} was delivered on {date}, but [nobody rang|I was home all day|I did not get it].
? The driver left [my|the] {product} [somewhere|with a stranger|at the wrong house] and I cannot find it.
? My package was [stolen|taken] from the [porch|doorstep|hallway].
! I am sorry that the {product} is missing. I have asked {courier} where order {order} was left.
! I have opened a search with {courier} for order {order}. If it is not found in {n} days, we will send a new one.
= says order {order} is marked delivered but never came
= reports that the parcel with the {product} is missing
= thinks the package was stolen from the doorstep

# high
? I need the {product} [by|before|no later than] {day}, it is [for a wedding|a birthday present|for an event|for my exam].
? If order {order} does not [come|arrive] [tomorrow|by {day}|today] I cannot use it any more.
? My flight leaves on {day} and the {product} is still not here.
? The [delivery|parcel] must be here before {day} because we [open the office|leave the country|have guests].
? We have a [show|launch|conference] on {day} and the {product} you promised is nowhere.
! I understand that you need the {product} by {day}. I have asked {courier} for express delivery of order {order}.
! I have marked order {order} as urgent, and {courier} has been told about {day}.
= needs the {product} by {day} and order {order} has not come
= has a hard deadline on {day} for order {order}
= needs the delivery before leaving on {day}

# low
? How long does [delivery|shipping] to {city} [take|usually take]?
? Do you [ship|deliver|send] to {city}?
? How much is [delivery|shipping|postage] for a {product}?
? Can I choose [a delivery day|the time|an evening slot] for the {product}?
? Is [express|next day|weekend] delivery [possible|available] to {city}?
? Do you use {courier} or another carrier?
! Delivery to {city} takes {n} to {n2} days with {courier}.
! Yes, we deliver to {city}. Shipping for a {product} costs {amount}.
= asks how long delivery to {city} takes
= asks whether the shop ships to {city}
= wants to know the shipping cost for a {product}

# normal
? The box was [empty|open|torn|half empty] when {courier} [brought|handed over|dropped] it.
? [Only|Just] {n} of the {n2} parcels of order {order} [arrived|came|were delivered].
? Part of order {order} is missing, the {product} was not [in the box|in the parcel|delivered with the rest].
? The parcel [arrived|came] [soaked|crushed|damaged] by the carrier, it looks as if somebody dropped it.
! I am sorry that part of order {order} is missing. I have asked our warehouse to send the {product} again.
! Thank you for the report about the damaged parcel. I have told {courier}, and the warehouse prepares a new box.
= received only {n} of {n2} parcels from order {order}
= says the {product} was missing from the parcel
= reports a box damaged by {courier}

# normal
? {courier} tried to deliver while I was [out|at work|away] and now [wants a fee|the parcel is gone].
? I missed the [driver|courier|postman], how do I get a new delivery [date|attempt] for order {order}?
? The driver [never rang|did not ring] the bell and left a card instead.
? The pickup point in {city} is [closed|full] and I cannot collect the parcel.
? My parcel is [held|stuck] at customs and they ask for [papers|a fee of {amount}].
! I have asked {courier} for a new attempt with order {order} on {day}.
! The parcel is kept for {n} days. You can collect your {product} in {city} until then.
= missed the delivery of order {order} and wants a new date
= cannot collect the parcel in {city}
= says the parcel is held at customs

# low
? Can you [hold|delay|wait with] order {order} until I am back from holiday? [No hurry|No rush].
? Please [combine|put together] orders {order} and {order2} in one parcel if possible.
? My {product} arrived [early|a day early|today], thank you for the fast delivery!
? Next time please use [less plastic|a smaller box|paper] for the packaging.
? Just so you know, the driver from {courier} was [very kind|lovely], thanks.
! Thank you for your kind words about the delivery of your {product}.
! I have put orders {order} and {order2} together in one parcel.
= asks to hold order {order} until after the holiday
= wants orders {order} and {order2} in one parcel
= says thanks for the fast delivery of the {product}

# high
? This is the third time you [promise|promised] a date and [nothing comes|nobody comes]! Where is my order {order}?
? I have [waited|taken a day off] [again|for nothing] and {courier} did not come. [This is unacceptable|I am furious].
? My mother [needs|depends on] the {product} for her [care|health] and it is {n} weeks late.
! I am very sorry that {courier} did not come again. I have marked order {order} as urgent and asked for an answer today.
! I understand your anger about order {order}. A manager is now talking to {courier}.
= is furious that order {order} is late again
= waited for nothing because {courier} did not come
= urgently needs the {product} which is {n} weeks late

# normal
? I [got|received|was sent] {n} parcels but [ordered|wanted] only one.
? Why is order {order} shipped from {city}? That will take [ages|too long].
? You split my order and I do not know when the {product} [comes|ships|leaves].
? My order {order} says processing since {date}, when does it [ship|leave the warehouse]?
! Order {order} is packed and leaves our warehouse in {city} on {day}.
! We split the order because the {product} was in another store. It ships on {day}.
= asks when order {order} leaves the warehouse
= does not know when the {product} ships
"""

NOUNS = """
a late parcel|a lost package|a tracking number|a delivery date|a wrong address|a new address|a courier|a carrier|
a missed delivery|a pickup point|a delivery slot|express delivery|shipping costs|customs papers|a torn box|
a stolen parcel|a split order|a depot|an undelivered box|a driver who did not ring|postage abroad|a delayed truck|
a parcel locker|a neighbour who took the parcel|a postcode|a dispatch date|the warehouse|a damaged parcel
"""
