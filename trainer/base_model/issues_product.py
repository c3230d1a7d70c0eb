"""Support situations before a purchase: what it can do, what fits, what is in stock. Notation: see `phrases.Issue`."""

TOPIC = "product"

ISSUES = """
# low
? [Is|Will] the {product} [compatible with|going to work with|fit for] [my|an older|a] {product2}?
? Does the {product} [work|go together] with [{brand}|my {brand} phone|an old laptop|a Mac]?
? [Can|Could] I use the {product} [with|together with] the {model}?
? I own a {product2}, [would|does] the new {product} [fit|connect to] it?
! Yes, the {product} works with {brand} and with most phones. You need our free app.
! The {product} fits the {model}. It also works with a {product2}.
= asks whether the {product} works with {brand}
= asks whether the {product} is compatible with a {product2}

# low
? When will the {colour} {product} be [back in stock|available again|in stock]?
? Is the {product} [sold out|gone for good|still being made]?
? Do you have {n} pieces of the {product} in stock?
? How many {product} units in {colour} do you have left?
? Will there be a new [version|model] of the {product} [this year|soon]?
! The {colour} {product} will be back in stock in {n} weeks. I can send you a note when it is here.
! We have {n} of them in stock, and the {colour} one can be ordered today.
= asks when the {colour} {product} is back in stock
= wants to know whether {n} pieces of the {product} are in stock

# low
? [How big|How heavy|How tall|How loud] is the {product}?
? What are the [dimensions|measurements|specifications|specs] of the {product} {model}?
? How much [power|electricity|water|space] does the {product} [use|need|take]?
? How many [watts|litres|inches|hours] does the {product} have?
? Does the {product} have [a timer|a removable battery|a night mode|a headphone jack|USB-C|an off switch]?
? What is the resolution of the {product} {model}?
! The {product} is {cm} centimetres wide and weighs {n} kilograms.
! Yes, the {product} {model} has a timer and a removable battery.
= asks for the dimensions of the {product}
= asks how much power the {product} uses
= wants to know whether the {product} has a timer

# low
? What is the difference between the {product} {model} and the {model2}?
? Which {product} [would you recommend|is best|should I buy] for [a small flat|my parents|an office|a student|a child]?
? I cannot decide between the {model} and the {model2}, [what do you suggest|which one is quieter].
? Is the {model} worth {amount} more than the {model2}?
! The {model} is smaller and quieter, while the {model2} has more power. For a small flat I would take the {model}.
! For your needs I recommend the {product} {model}. It is easy to use and costs {amount}.
= asks about the difference between the {model} and the {model2}
= wants advice on which {product} to buy

# low
? Is the {product} [waterproof|safe for children|allowed outdoors|dishwasher safe|made of steel or plastic]?
? Can the {product} be used [outside|in the bathroom|at night|in the car|abroad]?
? Does the {product} work [without internet|without an app|offline|on batteries|with 110 volts]?
? Does it need [a subscription|a hub|a special plug|an account] to work?
? Which materials is the {product} made of?
! The {product} can be used outside, as long as it stays dry. It works without an app too.
! No, the {product} does not need a subscription. It works on batteries for {n} hours.
= asks whether the {product} can be used outside
= asks whether the {product} works without an app
= wants to know what the {product} is made of

# low
? What [comes in the box|is included] with the {product}?
? Is a [cable|charger|filter|case|mount|spare bag] included with the {product}?
? Do you sell [filters|spare parts|covers|bulbs|bags|straps] for the {product}?
? How long is the cable of the {product}?
? How long is the warranty on a new {product} before I buy one?
! The box contains the {product}, a cable and a short manual.
! Yes, we sell filters for the {product}. They cost {amount} each.
= asks what is included with the {product}
= asks for spare parts for the {product}

# low
? [Will|Is] the {product} [be on sale|cheaper] [soon|next month|on {day}]?
? Do you [offer|give] a discount [for schools|for {n} pieces] on the {product}?
? Can I see the {product} in a shop in {city} before I buy it?
? Is the {product} made in {city}?
? I am [thinking of|dreaming of] buying a {product} and have some questions.
! You can see the {product} in our shop in {city}.
! There is a discount of ten percent when you buy {n} pieces of the {product}.
= asks whether the {product} will be on sale
= wants to see the {product} in {city}

# normal
? The website says the {product} has a timer but the box says it has none, which is [right|true]?
? Our office needs {n0} {product} units, can you [make an offer|send a quote|tell me what you have]?
? The product page of the {model} [is wrong|has the wrong size|shows another picture], I need the correct data [to order|].
? We want to buy {n0} of the {product} for our [school|hotel|clinic], please advise.
? I need to know this week whether the {product} fits the {model}, I must order [soon|then].
! I have checked the data of the {product}. It has a timer, and I have corrected the page.
! I have asked our sales team for an offer for {n0} pieces of the {product}.
= asks for an offer for {n0} {product} units
= found wrong data on the page of the {model}
= wants advice on {n0} {product} units for an office

# low
? I love the [look|idea|design] of your {product}, [does it come in|is there one in] {colour}?
? Which colours [are there|does the {product} come in]?
? My neighbour has the {product} and [raves about it|likes it], tell me more [please|].
? Is the light of the {product} [warm or cold|dimmable]?
? Can two {product} units be [linked|paired|used at the same time]?
? Does your {product} speak [Spanish|French|German|Polish]?
! Yes, the {product} comes in {colour} and {colour2}.
! Two {product} units can be linked in the app, and the light can be dimmed.
= asks whether the {product} comes in {colour}
= asks whether two {product} units can be linked
"""

NOUNS = """
the size of a product|the weight|a colour|a material|compatibility|a question before buying|stock|a sold out item|
a new model|specifications|power use|a comparison of two models|a recommendation|what is in the box|spare parts|
a filter size|the length of a cable|use outdoors|a waterproof case|a feature|a battery life in the data sheet|an offer|
a quote for an office|a data sheet|which plug it has|a pre-order|a release date|whether it fits an older model
"""
