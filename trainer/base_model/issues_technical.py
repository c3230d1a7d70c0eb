"""Support situations about products that misbehave: faults, set-up, apps. Notation: see `phrases.Issue`."""

TOPIC = "technical"

ISSUES = """
# normal
? My {product} [does not turn on|will not start|will not power on|is dead|shows no light] [any more|since {date}|].
? The {product} [suddenly|just] [stopped working|died|went dark] [after {n} days|yesterday|during use].
? I plugged in the {product} and nothing happens, [no light|no sound|no sign of life].
? [The|My] {product} [keeps|is] [switching off|turning itself off|restarting|rebooting] every {n} minutes.
! Please unplug the {product} for {n} minutes, then hold the power button for ten seconds.
! I am sorry that the {product} does not start. Please try another socket and another cable first.
= says the {product} does not turn on
= reports that the {product} stopped working after {n} days
= has a {product} that keeps restarting

# normal
? The {product} [does not|will not|cannot] [connect|join|stay connected] to [my|the] [wifi|wi-fi|network|router].
? My {product} [loses|drops] the [wifi|wireless|Bluetooth] [connection|signal] every [few minutes|evening|day].
? I cannot [pair|connect] the {product} with my [phone|laptop|tablet|tv] over Bluetooth.
? The {product} is offline in the app although the [internet|wifi] works.
? After I changed my router the {product} does not [find|see] the network.
! Please restart the router and hold the pair button of the {product} until the light blinks.
! The {product} needs the slower wifi band. Please choose it in your router and connect again.
= cannot connect the {product} to wifi
= says the {product} loses the Bluetooth connection
= has a {product} that is offline in the app

# normal
? [Since|After] the [last|latest|new] [firmware|software] update the {product} [freezes|is slow|crashes|behaves oddly].
? The update of my {product} [stops|hangs|gets stuck] at {percent} percent.
? The firmware update for the {product} fails with error {code}.
? Error {code} [appears|shows|comes up] on the display of the {product}, what does it mean?
? The {product} only [shows|flashes] {code} and beeps {n} times.
! Error {code} means that the update was not complete. Please restart the {product} and run the update again.
! I have sent you the new firmware for the {product}. It fixes error {code}.
= sees error {code} on the {product}
= says the {product} freezes after the update
= reports that the update hangs at {percent} percent

# normal
? The app [crashes|closes|freezes] [when|whenever|each time] I open the settings of the {product}.
? Your app does not [find|show|detect] my {product} [at all|any more].
? The [timer|schedule|alarm|automation] in the app [does not work|is ignored by the {product}].
? I do not get any [notifications|alerts] from the {product} on my phone.
! Please install the newest version of the app and add the {product} again.
! Please allow notifications for the app in your phone. Then restart the {product}.
= says the app crashes with the {product}
= does not get alerts from the {product}
= says the app does not find the {product}

# normal
? The {product} makes a [strange|loud|grinding|buzzing|rattling] [noise|sound] [when it runs|all the time].
? The [picture|screen|display] of the {product} [flickers|is black|has stripes|stays blank].
? There is no sound [from|out of] the {product}, only [noise|crackling|hissing].
? The microphone of my {product} [does not work|is too quiet|picks up nothing].
? The left side of the {product} is [silent|much quieter] than the right one.
! Please clean the {product} with a dry cloth and set it back to factory settings.
! The noise of the {product} can come from a loose part. Please open the lid and press the part in.
= hears a strange noise from the {product}
= reports a flickering picture on the {product}
= has no sound from the {product}

# normal
? The battery of the {product} [lasts only {n} hours|drains fast|does not charge|is empty after {n} hours].
? My {product} [does not charge|charges very slowly|stops charging at {percent} percent].
? The {product} says fully charged but dies after {n} minutes.
! Please charge the {product} with the cable from the box for {n} hours. Then check the battery in the app.
! A battery that lasts only {n} hours is not normal. Please reset the {product} and charge it once completely.
= says the battery of the {product} lasts only {n} hours
= has a {product} that does not charge

# high
? The {product} [smokes|is smoking|gave off smoke|caught fire] [and smells of burning|when I plug it in|last night]!
? I got [an electric shock|a shock] from the {product}.
? The {product} gets so hot that [the plastic melts|I burned my hand|it scorched the table].
? There are sparks [coming out of|from] the {product}, [is it safe|is this dangerous]?
? The battery of the {product} is [swollen|leaking] and smells [strange|of chemicals].
! Please unplug the {product} at once and do not use it again. I have marked this as a safety case.
! This is a safety risk. Do not touch the {product} while it is plugged in, our safety team will call you today.
= reports smoke from the {product} and a safety risk
= got an electric shock from the {product}
= says the {product} gets dangerously hot

# high
? The {product} [is useless|does not work at all] and I [work from home|have a meeting in an hour|need it for work today]!
? My [elderly father|baby|family] [has no heating|is cold] because your {product} [is broken|shows {code}], please help now.
? The {product} leaves our front door open, [we cannot lock it|anyone can walk in].
? [Third|Second] time the {product} breaks down! I am [fed up|so angry], fix it today.
! I am very sorry. I have marked this as urgent, and a technician will call you about the {product} today.
! Please restart the {product} now with the button on the back. A technician stands by for you today.
= cannot work because the {product} does not work at all
= has no heating because the {product} shows {code}
= is angry that the {product} broke down again

# low
? How do I [reset|restart|clean|descale|update] the {product}?
? Where do I find the [serial number|reset button|manual] [of|for] the {product}?
? How can I [change|set] the [language|clock|brightness|volume] [of|on] the {product}?
? What does the [blue|orange|green|red] light on the {product} mean? [Just curious|It works fine].
? The {product} works, only the [clock|display|logo] is a little [off|dim|crooked], no big deal.
? Is there a way to make the {product} [quieter|less bright|beep less]?
! You can reset the {product} with the small button on the back. Hold it for {n} seconds.
! The light on the {product} shows that an update is ready. You can find the manual on our site.
= asks how to reset the {product}
= asks what the light on the {product} means
= wants to find the manual for the {product}

# normal
? I [followed|read] the manual but the [set-up|setup|installation] of the {product} [fails|does not finish|stops at step {n}].
? The {product} does not [respond|react] to [the remote|the buttons|my voice|the switch].
? The {product} [leaks|drips] water [from the bottom|on the table].
? The [remote|button|switch|hinge|sensor] of my {product} is [stuck|broken|loose].
? The {product} shows the wrong [temperature|time|room] and [ignores|forgets] my settings.
? The recordings of my {product} are [gone|black|not saved].
! Please remove the {product} from the app and start the set-up again from step {n}.
! I am sorry about the trouble with the {product}. Please take out the battery for a minute and try again.
= cannot finish the set-up of the {product}
= says the {product} does not respond
= reports that the {product} leaks water
"""

NOUNS = """
a dead device|a blinking light|an error code|a firmware update|a software bug|a crash of the app|wifi trouble|
a Bluetooth problem|a weak signal|a loud fan|a flickering screen|a dead pixel|a battery that drains|a charger that gets hot|
a stuck button|a broken sensor|a strange noise|no sound|a frozen display|a reset|a set-up that fails|a leak|
a remote that does not react|a smell of burning|an electric shock|a device that restarts|a lost connection|a failed update
"""
