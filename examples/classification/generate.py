"""Write train.jsonl and test.jsonl of the classification example from complaints that were worded by hand.

A message is an opening, a complaint and an ending. Complaints of the test rows are never used in training rows;
openings, endings and places are shared. The same seed gives the same bytes: `python generate.py` rewrites both files.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SYSTEM = "Which department of Marwick city handles this? Reply with its name."
TRAIN_PER_CLASS, TEST_PER_CLASS = 54, 10

PLACES = """Alder Row|Bishop's Lane|Canal Street|Dyer's Wynd|Eastgate|Fennel Close|Garrison Road|Harbour Parade
Ivy Bank|Juniper Avenue|Kiln Hill|Larch Terrace|Market Cross|Nettle Walk|Orchard Rise|Penny Bridge|Quarry Road
Rope Street|Saddler's Yard|Tollgate|Upper Weir|Vine Street|Wharf Lane|Yarrow Green""".replace("\n", "|").split("|")
OPENINGS = """Hello,|Hi there,|Good morning.|Evening all.|Not sure who to ask, but|Third time I write:
Quick one:|Dear city,|From number six upstairs, a small thing:
I'm writing for my mother, who doesn't use e-mail.|Sorry to bother you,|To be honest I am fed up:
As a shop owner I have to ask you for help.|After the third phone call I try it in writing.|Dear town hall,
I was told to turn to you.|My daughter said I should write.|A neighbour gave me this address.
You asked residents to get in touch, so:|Hello again!|I've lived here for twelve years and never written before.
Before I call the paper:|Please forward this if I'm wrong here.|I hope this reaches the right desk.
Short message from a regular visitor:""".replace("\n", "|").split("|")
ENDINGS = """Thanks.|Thank you for looking into it.|Could you send someone?|Who takes care of this?
What can be done?|No hurry.|It would be good to hear back.|Please sort it out before the weekend.
I have photos if you need them.|I'm at home after five.|Two other households say the same.
It can't stay like this.|Is there a form for it?|I'd come by in person if that helps.|Kind regards, a resident.
We would all be grateful.|It was the same last year.|Please tell me when to expect an answer.
I hope that's enough detail.|Happy to show you where.|Let me know if you need more.
Otherwise all is well here.""".replace("\n", "|").split("|")
ASKING = ("how", "may", "can", "could", "is", "who", "which", "when", "why", "what", "did", "has", "where", "are", "do")

TRAIN = {
    "roads": """there is a pothole outside {place} {n} deep enough to lose a wheel in
the tarmac on {place} has sunk by a hand's width along the kerb
a paving slab in front of {place} {n} rocks when you step on it, and an old man fell
the zebra crossing at {place} has worn away so far that drivers no longer stop
the stop sign at the corner of {place} lies flat on the verge
ice on the slope of {place} was not gritted and cars slid into each other
the speed bump on {place} broke apart and pieces of rubber lie about
cracks as wide as my thumb run right across {place}
a manhole cover at {place} rattles under every lorry and sits too low
the new asphalt on {place} came loose after a single winter
the traffic signal at {place} stays red for cyclists forever
the lane markings on {place} contradict each other after the resurfacing
the guard rail on the bend of {place} is bent and one post is missing
roadworks on {place} have stood abandoned with barriers up for weeks""",
    "lighting": """the street lamp in front of {place} {n} has gone out
all lamps between {place} and the school are dark
a lantern at {place} flickers the whole night like a disco
the lights on {place} burn at noon and nobody switches them off
the bulb over the underpass at {place} is dead and women avoid it
a lamp post on {place} leans after a van hit it, and wires hang out
since the storm half of {place} lies in the dark after sunset
the new LED lamp shines straight into our bedroom at {place} {n}
the footpath behind {place} has never had a single lamp
the light at the bus shelter of {place} stays off all evening
the cover of a lamp at {place} dangles by one screw
the lamps on {place} come on an hour after dusk
one side of {place} is lit and the other pitch black since the cable works
the floodlight of the sports ground at {place} hums and goes off every ten minutes""",
    "waste": """our bins at {place} {n} were not emptied on Tuesday
the blue container for paper at {place} overflows into the road
someone dumped a sofa and two mattresses at the end of {place}
the collection crew left half of our rubbish lying on {place}
I need a bigger garden-waste bin for {place} {n}
the glass bank on {place} is full to the brim and bottles stand around it
how do I book a bulky pick-up for an old wardrobe at {place} {n}
our brown bin has a cracked lid since the truck dropped it on {place}
the recycling calendar for {place} shows two different days
builders tip their rubble behind the garages of {place}
the litter bin at {place} is always stuffed by Saturday noon
a fridge has stood on the pavement of {place} for nine days
we got no yellow sacks in {place} this quarter
the lorry skips our cul-de-sac off {place} every second week""",
    "parks": """the swing on the playground at {place} hangs by one chain
a branch of the big lime tree in {place} is about to come down
the grass in the green behind {place} stands knee-high
the benches along the pond at {place} have lost their slats
the roses in the bed at {place} have dried up completely
dog owners let their animals dig up the flower beds at {place}
the slide in the little park on {place} has a sharp edge
the hedge of the public garden narrows the path at {place}
could the city plant a few trees on the bare lawn at {place}
the sandpit near {place} is full of leaves and broken toys
the gate of the rose garden at {place} no longer shuts
roots of the plane trees are lifting the path through the park at {place}
the fountain basin in the gardens of {place} is green with algae
the climbing frame at {place} was taken away and never replaced""",
    "water": """brown water comes out of the tap at {place} {n}
a main must have burst, water bubbles up in the middle of {place}
the drain at {place} is blocked and the street floods with every shower
there has been no pressure in our shower at {place} {n} since noon
sewage smell rises from the gully at {place}
the hydrant on {place} drips day and night
the water meter in our cellar at {place} {n} spins although all taps are shut
my bill for drinking water at {place} {n} has doubled without a reason
the cellar of {place} {n} filled from the sewer after the thunderstorm
the tap water at {place} tastes of chlorine
when will the supply at {place} be back on after the works
a culvert under {place} is clogged with branches and backs up
is the lead pipe into {place} {n} going to be exchanged
the drinking fountain at {place} gives only a trickle""",
    "noise": """the bar at {place} {n} plays music until three in the morning
a neighbour at {place} {n} drills and hammers every Sunday
the extractor fan of the bakery on {place} roars through the night
teenagers with loudspeakers party below our windows at {place}
the dog at {place} {n} barks for hours while its owners are out
building work on {place} begins at half past five with a jackhammer
motorcycles race up and down {place} after midnight with open exhausts
the rehearsal room at {place} {n} shakes our walls with its bass
the heat pump of {place} {n} whines so loudly that we cannot sleep
a car alarm on {place} howls every night
the delivery of the supermarket at {place} slams containers at four in the morning
church bells at {place} ring all through the night now
the beer garden of {place} shouts and sings long after closing time
leaf blowers start at six on {place} every Saturday""",
    "parking": """a van has blocked the entrance of {place} {n} since Friday
I got a fine at {place} although my ticket was valid until four
the ticket machine on {place} swallows coins and prints nothing
a car without plates has stood on {place} for two months
people leave their cars on the pavement of {place}, prams have to use the road
how do I renew my resident's permit for {place}
the disabled bay at {place} is taken by the same sports car each day
lorries stand overnight in the bays on {place}
the app charged me twice for one hour on {place}
there is not a single free bay for residents of {place} in the evening
cars stand in front of the fire lane at {place}
I want to object to the penalty notice from {place}
the barrier of the garage at {place} would not open, and I paid for the whole night
delivery drivers stop in the second row on {place} all day long""",
    "permits": """I'd like to build a carport at {place} {n} and need to know what to apply for
how long does the approval for a dormer at {place} {n} take
may we put tables outside our café at {place} {n} in summer
our street wants to close {place} for a party in June
which papers do I need for a scaffold on the pavement at {place}
I applied to convert the barn at {place} {n} in March and have no answer
is a fence of two metres allowed at {place} {n}
my application for a market stall at {place} came back without a reason
we plan a solar roof on the listed house at {place} {n}
who signs off the change of use from shop to flat at {place} {n}
do I need consent for cutting a doorway into the wall at {place} {n}
the drawings for our extension at {place} {n} were lost by your counter
I want to shoot a short film on {place} and ask for approval
a licence for a food truck on {place}, what does it cost""",
    "pests": """rats run across the yard of {place} {n} in broad daylight
there is a wasps' nest under the roof of the kindergarten at {place}
pigeons have taken over the arcade at {place} and foul everything
cockroaches come up through the stairwell at {place} {n}
the oaks at {place} are full of caterpillars whose hairs make us itch
mice have got into the cellars along {place}
a swarm of bees hangs on the signpost at {place}
ants as big as raisins are in all flats of {place} {n}
foxes tear open sacks behind {place} and have become quite tame
the ditch along {place} breeds mosquitoes by the thousand
we found bedbugs in the hostel at {place} {n}
moles and voles have undermined the whole bank at {place}
gulls attack people who eat outside at {place}
martens have bitten through the cables of three cars on {place}""",
    "graffiti": """the wall of {place} {n} was sprayed with huge tags overnight
somebody painted swear words on the underpass at {place}
the memorial at {place} has been smeared with red paint
stickers cover every sign post on {place}
there are hateful slogans on the school gate at {place}
the electricity box at {place} has been scribbled on with marker
the shutters of our shop at {place} {n} are covered in spray paint once more
the freshly cleaned bridge at {place} is full of scrawls again
posters for a concert were pasted all over the wall at {place}
a swastika has been scratched into the bench at {place}
silver letters two metres tall run along the retaining wall of {place}
the tunnel tiles at {place} were written on with black paint
could the youth club paint a mural over the scribbles on {place}
who pays for getting paint off the facade of {place} {n}""",
    "transit": """bus 14 drove past the stop at {place} without halting
the tram from {place} was twenty minutes late and the next one full
the timetable at the stop on {place} is from last year
the driver of the 7 shut the door on my walking stick at {place}
my monthly pass is not read by the gate at {place}
the lift down to the metro platform at {place} is out of order
why was the night line through {place} dropped
the display at {place} announces trams that never come
the ramp of the bus would not fold out for my wheelchair at {place}
an inspector fined me on line 3 although I had stamped at {place}
the replacement bus at {place} was nowhere to be found
could the 22 stop at {place} again for the pupils
heating on the tram from {place} is off in this frost
the ferry from {place} leaves before the train arrives""",
    "lost_property": """I left my umbrella with the wooden handle at {place}
my son lost his violin case somewhere around {place}
I found a ring of keys with a red tag on {place}
has a grey rucksack been handed in that I forgot at {place}
a purse with cards was lying on {place}, where do I take it
my glasses fell out of my jacket near {place}
I picked up a child's bicycle helmet at {place}
I'm missing a black phone since the market at {place}
a wedding ring must have slipped off my finger at {place}
I handed in a camera at {place} last month, may I keep it now
my hearing aid is gone, I had it last at {place}
someone left a bag with a laptop on the wall at {place}
I would like to collect the scarf that was found at {place}
our cuddly rabbit was left behind at {place} and a small girl cries""",
}
TEST = {
    "roads": """the cobbles on {place} have come up and my bike threw me off
a hole has opened beside the kerb at {place}, someone put a branch in it
the roundabout at {place} has lost its direction arrows
the surface of {place} is so rough that the ambulance shakes
the cycle lane on {place} ends in a heap of gravel
black ice covers the pavement of {place}, it needs salt""",
    "lighting": """it is so dark on {place} in the evening that I use my phone to see the steps
two lamps on {place} have been blinking since Sunday
the glow of the lamp at {place} {n} keeps my baby awake
a lamp post near {place} lost its door and the cables are bare
the light over the stairs at {place} has not worked all winter
why are the lamps on {place} still on at eleven in the morning""",
    "waste": """nobody has picked up the rubbish at {place} for two weeks
old tyres and paint cans were thrown into the bushes at {place}
our bin at {place} {n} vanished after collection day
where do I take a broken washing machine from {place} {n}
sacks of household garbage pile up beside the containers on {place}
the compost bin is too small for the six flats at {place} {n}""",
    "parks": """the seesaw at {place} is rotten and wobbles
a chestnut in the park at {place} has lost a limb that blocks the path
the lawn at {place} has turned into mud and no seed was sown
weeds grow over the flower beds of the square at {place}
the picnic table in the gardens at {place} is broken
the ivy is strangling the old beech on the green at {place}""",
    "water": """a pipe seems to leak below {place}, the ground is wet in dry weather
only a thin trickle comes from the kitchen tap at {place} {n}
the gully on {place} spits the rain back onto the road
our water at {place} is cloudy and smells of metal
the sewer under {place} gurgles and comes up through the shower
how hard is the tap water in {place}""",
    "noise": """the pub on {place} keeps its doors open and the karaoke is heard three streets away
someone at {place} {n} plays the drums at midnight
pile driving on {place} goes on through the night
the cockerel of {place} {n} crows from four o'clock on
the air conditioning on the roof at {place} drones without a pause
fireworks go off behind {place} every weekend at one in the morning""",
    "parking": """a caravan takes up three bays on {place} all summer
I was ticketed on {place} while my badge lay on the dashboard
the pay station at {place} rejects every card
my driveway at {place} {n} is blocked every morning by school traffic
where can I buy a visitor's permit for {place}
a trailer has been left in the loading bay of {place} for weeks""",
    "permits": """what must I hand in to add a storey to {place} {n}
we want to hold a flea market on {place}, whom do we ask for approval
can I fell the wall of my front garden at {place} {n} without consent
our application for a balcony at {place} {n} has been with you since May
is a shop sign with lights allowed on the house at {place} {n}
I need a licence to sell ice cream on {place}""",
    "pests": """something gnaws in the walls of {place} {n}, and there are droppings
hornets have settled in the shutter box at {place} {n}
a rat came out of the drain on {place} and ran into the bakery
flocks of crows empty the bins and nest above {place}
silverfish and beetles crawl through the library at {place}
the ponds at {place} swarm with midges, we can't sit outside""",
    "graffiti": """names in blue spray all along the noise barrier of {place}
the statue at {place} got a painted moustache
insults about the mayor are written on the wall of {place} {n}
the new playground house at {place} was tagged within a week
the subway walls at {place} are full of drawings and filth in felt pen
stencils of skulls appeared on every facade of {place}""",
    "transit": """the 9 left {place} four minutes early and I missed my appointment
the escalator to the platform at {place} stands still
no bus has come to {place} since the diversion began
the ticket app sold me the wrong zone from {place}
the tram driver at {place} braked so hard that people fell
are there extra night trams from {place} at New Year""",
    "lost_property": """did anybody hand in a blue child's jacket at {place}
I found a bank card on the steps of {place}
my folder with certificates stayed on a bench at {place}
a small gold earring is lost, probably at {place}
there was a set of car keys in the snow at {place}, I have them here
last Thursday I forgot my walking stick at {place}""",
}


def main() -> None:
    """Write both files."""
    rng = random.Random(4)
    for name, complaints, count in (("train", TRAIN, TRAIN_PER_CLASS), ("test", TEST, TEST_PER_CLASS)):
        rows = [row for label, texts in complaints.items() for row in _rows(rng, label, texts.splitlines(), count)]
        rng.shuffle(rows)
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _rows(rng: random.Random, label: str, complaints: list[str], count: int) -> list[dict[str, object]]:
    """Return so many rows of a class; every complaint occurs equally often, give or take one, at other places."""
    rows: list[dict[str, object]] = []
    places = rng.sample(PLACES, len(PLACES))
    for number in range(count):
        complaint = complaints[number % len(complaints)]
        text = complaint.format(place=places[number % len(places)], n=rng.randint(2, 140))
        text += "?" if text.split()[0] in ASKING else "."
        opening, ending = rng.choice(OPENINGS), rng.choice(ENDINGS)
        form = number % 4
        if form == 0:
            message = f"{text[0].upper()}{text[1:]} {ending}"
        elif form == 1:
            message = f"{opening} {_after(opening, text)}"
        else:
            message = f"{opening} {_after(opening, text)} {ending}"
        rows.append({"messages": _messages(message, label)})
    return rows


def _after(opening: str, text: str) -> str:
    return text if opening[-1] in ",:" or opening[-1].isalnum() else text[0].upper() + text[1:]


def _messages(message: str, label: str) -> list[dict[str, str]]:
    turns = (("system", SYSTEM), ("user", message), ("assistant", label))
    return [{"role": role, "content": content} for role, content in turns]


if __name__ == "__main__":
    main()
