"""Support situations about goods going back: returns, exchanges, warranty swaps. Notation: see `phrases.Issue`."""

TOPIC = "returns"

ISSUES = """
# normal
? I [want|would like|wish] to [return|send back|give back] the {product} [from order {order}|I bought on {date}].
? How do I [return|send back] [a|my] {product}?
? The {product} is not [what I expected|for me|right for us], please tell me how to send it back.
? Please [start|open|arrange] a return for order {order}.
? I [changed my mind|do not need it any more], can the {product} go back?
! I have opened a return for order {order}. You will get a label by email, and you can drop the {product} at any post office.
! You can send the {product} back within {days} days. I have emailed you the return label.
= wants to return the {product} from order {order}
= asks how to send back the {product}
= changed their mind and wants to return the {product}

# normal
? I [got|received|was sent] the wrong [item|product|thing], a {product2} instead of [a|my] {product}.
? You sent [me|us] the {colour} {product} but I ordered the {colour2} one.
? The box of order {order} contains a {product2}, I ordered a {product}.
? I ordered a {product} and there was a {product2} inside, how can I swap it?
! I am sorry that you received a {product2} instead of the {product}. I have sent a return label and the right item follows.
! The wrong item in order {order} was our mistake. Please send the {product2} back with our label, it is free.
= received a {product2} instead of the {product}
= got the wrong colour of the {product}
= wants to swap the wrong item from order {order}

# normal
? I [want|would like] to [exchange|swap|change] the {colour} {product} for a {colour2} one.
? Can I exchange [the|my] {product} for a [bigger|smaller|newer] [model|size|version]?
? The {product} is too [big|small|loud|heavy], I would rather have the {model}.
? Is an exchange possible for a {product} [I got as a gift|without the box|from order {order}]?
! Yes, we can exchange the {product}. Send it back with our label and we will post the other one.
! I have noted the exchange of the {colour} {product} for a {colour2} one on order {order}.
= wants to exchange the {colour} {product} for a {colour2} one
= asks to swap the {product} for another size
= wants the {model} instead of the {product}

# normal
? The {product} [arrived|came] [broken|cracked|scratched|damaged|in pieces], I want a [replacement|new one].
? There is a [crack|dent|deep scratch] in my new {product}, please [replace|exchange] it.
? My {product} was [smashed|broken] in the box, how do I get [a new one|another one]?
? A [part|cable|lid|button] is missing from the {product}, can you send [another|a replacement]?
! I am sorry that the {product} arrived damaged. A replacement for order {order} is on its way.
! Please keep the broken {product} until our courier collects it. The new one ships on {day}.
= received a broken {product} and wants a replacement
= says the new {product} has a crack
= reports a missing part of the {product} and wants another

# normal
? Is my {product} still under [warranty|guarantee]? It [stopped|died|broke] after {n} months and I want it replaced.
? I want to [use|claim] the warranty for the {product} from order {order}.
? How do I send [a|my] [faulty|broken|defective] {product} [in|back] for a warranty [repair|replacement]?
? The warranty [form|page] does not let me enter the serial number of my {product}.
! Your {product} is under warranty for {n} years. I have opened a warranty case and sent you a label.
! Please send the {product} to our repair centre with the label. You will get a new one in {days} days.
= wants a warranty replacement for the {product}
= asks whether the {product} is still under warranty
= wants to send in the faulty {product} for repair

# normal
? The return label [does not print|is missing|has expired|never came|cannot be scanned].
? I sent the {product} back on {date}, did [it arrive|you get it|the parcel reach you]?
? {courier} did not [collect|pick up] my return on {day} [as agreed|although it was booked].
? Nobody came to [collect|pick up|fetch] the {product} I am returning.
? My return of order {order} has been [processing|open|at your warehouse] for {n} weeks.
! I have sent you a new return label for the {product}. Please tell me if it does not print.
! I have booked {courier} again for {day} to collect the {product}.
= needs a new return label for the {product}
= asks whether the returned {product} has arrived
= says nobody collected the return of order {order}

# low
? How [long|many days] do I have to return [something|a {product}]?
? What is your return [policy|period|window] for [opened|used|sale] items?
? Do I have to pay for [the return|sending it back|return postage]?
? Can I return a {product} without the [original box|receipt|packaging]?
? Can I bring a return to a [shop|store] in {city}?
! You can return a {product} within {days} days, and the return label is free.
! Yes, opened items can be returned as long as they are clean and complete.
= asks how many days there are to return a {product}
= asks about the return policy for opened items
= wants to know who pays for return postage

# low
? The {product} was a gift and we have two now, can one go back [some time|when I have time]? No hurry.
? Thanks for the [easy|quick] exchange, the new {product} is [great|perfect].
? I may send the {colour} {product} back next month, just asking whether that would be fine.
! There is no hurry, you have {days} days to send the second {product} back.
! I am glad that the exchange went well. Enjoy your {product}.
= asks whether a spare {product} can go back later
= says thanks for the easy exchange

# high
? You [refuse|refused] to take back a {product} that was broken from day one. I will go to my lawyer.
? The replacement {product} is [broken too|also broken|damaged again], this is the {n}rd one! [I have had enough|Unbelievable].
? My return window ends [today|tomorrow|on {day}] and your return page [is down|gives an error].
? I need the replacement {product} before {day}, [my shop cannot open without it|we depend on it].
! I am very sorry about the second broken {product}. I have marked it as urgent and a checked one leaves today.
! I have extended the return for order {order}, so the deadline is not a problem. The label is in your inbox.
= got a broken replacement {product} again and is angry
= return window ends on {day} and the return page fails
= urgently needs the replacement {product} before {day}

# normal
? You sent [my|the] {product} back to me instead of [accepting|exchanging] it, why was the return [rejected|refused]?
? I put the wrong [item|{product2}] in the return parcel, how can I get it back?
? I want to [return|send back] only {n} of the {n2} {product} units from order {order}.
? Please cancel my return, I want to keep the {product} [after all|now].
! I have cancelled the return of the {product}, so you can keep it.
! I am sorry that the return was rejected. I have asked our warehouse to look at the {product} again.
= asks why the return of the {product} was rejected
= wants to return {n} of {n2} {product} units
= wants to cancel the return and keep the {product}
"""

NOUNS = """
a return label|an exchange|a swap|a wrong item|a wrong size|a wrong colour|a broken item in the box|a missing part|
a warranty claim|a guarantee|a return window|a return policy|a return parcel|a replacement|a spare lid|an opened box|
a collected return|a change of mind|an unwanted gift|a rejected return|a repair centre|a faulty unit to send in|
a damaged lid|a cracked screen on arrival|a return form|goods sent back|free return postage|a repair under warranty
"""
