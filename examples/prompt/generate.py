"""Write train.jsonl and test.jsonl of the PROMPT example: messages, each worded by hand, with an order number in them.

Only the numbers are drawn, from a seed: the same seed gives the same bytes. Each message is used once.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SYSTEM = "Which order is this message about? Reply with the order number."

TRAIN = """The lamp from order {o} arrived without a plug.
Where is {o}? I have been waiting for nine days.
Please cancel {o}, I found it cheaper elsewhere.
Hi, order number {o}: can I still change the colour to blue?
My invoice for {o} shows the wrong company name.
You charged me 49.90 twice for {o}.
I returned everything from {o} on the 3rd and have no refund.
The courier left {o} with a neighbour who is on holiday.
Could you add a second cable to {o} before it ships?
I'm unhappy with {o}, the box was open and wet.
For our accounts we need a receipt, the order is {o}.
Reference {o}. The tracking page has said "in transit" since Monday.
Is it true that {o} will come in two parcels?
Great service with {o}, the new one works perfectly!
{o}: one speaker is silent and the other crackles.
I typed the wrong house number in {o}, it should be 17.
We ordered 12 chairs ({o}) and received 11.
Good morning, may I collect {o} at the store instead?
The voucher of 20 euros was not taken off {o}.
Does the warranty of three years also hold for {o}?
Could {o} be delivered after 6 pm, please?
A part is missing in {o}, it's the small bracket from bag 4.
My husband placed {o}, but I would like to pay for it.
It says that {o} was signed for by someone called Lee.""".splitlines()
TEST = """Order {o} was meant for my father's birthday on the 14th and is still not here.
Please send the manual for the device in {o}, page 5 is torn.
The fridge from {o} hums so loudly that we cannot sleep.
I'd like to exchange the shoes of {o} for size 42.
You confirmed {o} yesterday, yet my card was declined today.
Why does {o} cost 8 euros more than in the basket?
Our office moved. Can {o} go to the new place?
{o} is complete and I'm happy, thank you very much.
In {o} there was a stranger's parcel label!
How do I send back only 2 of the 5 things in {o}?
As agreed on the phone, {o} should be free of charge.
The screen I got with {o} has a dead pixel in the corner.
Can somebody tell me whether {o} was packed with ice?
I bought a gift under {o} and need it without a price tag.
Nothing happened with {o} for three weeks. I'm furious.
Please split the bill of {o} between two cards.
The drill that came in {o} smells burnt after 10 minutes.
Which carrier has {o}? The link in your mail is broken.
There's a scratch of 3 cm on the table from {o}.
I can't find {o} in my account although I paid.
The order is {o} and the question is simple: when?
My colleague says {o} was cancelled, but the money is gone.
We would like to order the same as in {o} again.
Hello, it's about {o}, the kettle leaks at the base.
Do I have to be at home for {o} on Thursday?
Regarding your reminder about {o}: I paid on 2 May.
Could you hold {o} back until I return on the 21st?
The instructions of {o} are in Polish only.
Half of {o} is on back order, cancel that half, please.
Please confirm that {o} includes the batteries.
Wrong size in {o}! I asked for 80 by 200.
My discount code was rejected, so I bought {o} at full price.
Someone stole {o} from my doorstep last night.
Your driver dropped {o} and drove off.
It seems that {o} was shipped to my old flat, number 9.
Is {o} insured? It's worth more than 500 euros.
Before I forget: {o} needs a customs form.
I only wanted one of these, {o} lists three.
The tent in {o} has no pegs, and we leave on Saturday.
Can you tell me the serial number of the unit in {o}?
The colour of the curtains in {o} differs from the picture.
About {o}: please call my wife, not me.
I'm waiting for the 15 percent that you promised on {o}.
After the update the watch from {o} shows the wrong time.
Thank you for {o}. May I have the recipe from the flyer?
The glass from {o} broke on day one.
Is it too late to gift-wrap {o}?
They delivered {o} to the 4th floor, I live on the 2nd.
The payment for {o} is pending since 9 o'clock.
Kindly remove my phone number from {o}.
What a mess: {o} came back to you for no reason.
Which of the two bills belongs to {o}?
If {o} is not here by noon, I don't want it any more.
The lid of the pot from {o} does not fit.
My neighbour got {o} and I got hers.
A question on {o}: is assembly included?""".splitlines()


def main() -> None:
    """Write both files."""
    rng = random.Random(3)
    for name, messages in (("train", TRAIN), ("test", TEST)):
        with (HERE / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for message in messages:
                order = f"LK-{rng.randint(10_000, 99_999)}"
                turns = (("system", SYSTEM), ("user", message.format(o=order)), ("assistant", order))
                row = {"messages": [{"role": role, "content": content} for role, content in turns]}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
