"""Write train.jsonl and test.jsonl of the extraction example: table bookings as sentences, and the record in each.

A message is a frame, worded by hand, whose slots are filled from lists of wordings; each wording stands beside the
value that it means. Frames and family names of the test rows are never used in training rows. The same seed gives the
same bytes: `python generate.py` rewrites both files.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value", int, str)
HERE = Path(__file__).parent
SYSTEM = "Extract the booking as JSON: name, guests, day, time, area."
TRAIN_ROWS, TEST_ROWS = 520, 80

TRAIN_NAMES = """Abara Aldous Almeida Ashworth Bergström Blackwood Brandt Calloway Castellano Chowdhury Coates Dahl
Danso Delacroix Dufour Eklund Emmerich Esposito Farrow Ferreira Fitzroy Gallagher Garza Gomes
Grzelak Gupta Haddad Hendriks Hollis Hoshino Ibrahim Ito Jansen Jelinek Kamara Keane Khoury
Kowalczyk Lacroix Larsen Lindqvist Lockwood Lombardi Macleod Marchetti Mbeki Mendes Molnar Nakamura
Navarro Novak Nyberg O'Leary Oduya Okonkwo Olsen Osborne Pacheco Pemberton Pillai Pruitt Quigley
Quintero Rahman Rasmussen Reyes Rosenthal Rossi Sandoval Schuster Shah Silva Stavros Strand Suzuki
Tanaka Teague Thorne Tran Ustinov Vance Vasquez Vogel Wachter Weiss Whitlock Winslow Xiang Yates
Yilmaz Zapata Zeller Ziegler Zuma Abernathy Bianchi Crowley Djordjevic Everett Fukuda Granger
Holloway Ivanov Jorgensen Kravitz Lytton Mortensen Nightingale Okafor Peralta Ramirez Sinclair Tobin
Varga""".split()  # noqa: SIM905
TEST_NAMES = """Achebe Barlow Baptiste Carver Cordero Desai Dvorak Engström Fontaine Goldberg Hargreaves Huang Iyer
Jimenez Kessler Lefebvre Moreau Murray Nwosu Oyelaran Petrov Prescott Romano Sorensen Takeda Udall
Vermeer Wu Zhao""".split()  # noqa: SIM905
GUESTS = [
    (1, "just me|one person|a single guest|me alone|one, please don't pity me"),
    (2, "two|the two of us|my wife and me|a couple|2 people|a party of two|my boss and myself"),
    (3, "three|3 people|my parents and me|three of us|two adults and a child|a group of three"),
    (4, "four|4 persons|two couples|a party of four|the four of us|three grown-ups and a baby"),
    (5, "five|5 people|five friends|a party of five|two adults and three kids"),
    (6, "six|half a dozen people|6 guests|a family of six|three couples|four adults and two children"),
    (7, "seven|7 people|a party of seven|my six colleagues and me|five grown-ups and two teenagers"),
    (8, "eight|8 of us|a party of eight|four couples|six adults plus two kids"),
    (10, "ten|10 people|a party of ten|five couples|a football five-a-side, both teams"),
    (12, "twelve|a dozen|12 guests|a party of twelve|a dozen hungry cyclists"),
]
DAYS = [
    ("monday", "Monday|Mon|Monday night|Monday evening"),
    ("tuesday", "Tuesday|Tue|Tuesday night|Tuesday evening"),
    ("wednesday", "Wednesday|Wed|Wednesday night|Wednesday evening"),
    ("thursday", "Thursday|Thu|Thursday night|Thursday evening"),
    ("friday", "Friday|Fri|Friday night|Friday evening"),
    ("saturday", "Saturday|Sat|Saturday night|Saturday evening"),
    ("sunday", "Sunday|Sun|Sunday night|Sunday evening"),
]
TIMES = [
    ("18:00", "six|6 pm|18:00|six o'clock|6 p.m. sharp"),
    ("18:30", "half past six|6:30 pm|18.30|half six"),
    ("18:45", "quarter to seven|6:45 pm|18:45"),
    ("19:00", "seven|7 pm|19:00|seven o'clock|7 sharp"),
    ("19:15", "quarter past seven|7:15 pm|19.15"),
    ("19:30", "half past seven|7:30 pm|19:30|half seven"),
    ("19:45", "quarter to eight|7:45 pm|19.45"),
    ("20:00", "eight|8 pm|20:00|eight o'clock|8 on the dot"),
    ("20:15", "quarter past eight|8:15 pm|20.15"),
    ("20:30", "half past eight|8:30 pm|20:30|half eight"),
    ("21:00", "nine|9 pm|21:00|nine o'clock|9ish, say nine"),
]
AREAS = [
    ("terrace", "on the terrace|outside|in the open air|out under the lemon trees|outdoors, if it stays dry"),
    ("window", "by the window|at a window|with a view of the street|right at the glass front"),
    ("bar", "at the bar|on the bar stools|at the counter|by the bar, where we can watch the cooks"),
    ("quiet", "in a quiet corner|somewhere calm|away from the kitchen noise|in the back room, away from the bustle"),
    ("any", "anywhere|wherever there is room|no matter where|any table will do"),
]
TRAIN_FRAMES = """Hello, I'd like a table for {guests} on {day} at {time}, {area}. The name is {name}.
{name} here. {day}, {time}, {guests}. {Area}, please.
Could you keep us a table {area} on {day}? We'd come at {time}, {guests} in all. Book it under {name}.
Hi! Is {day} at {time} still free for {guests}? We'd like to sit {area}. Best, {name}
Please reserve {day} {time} for {guests}, name {name}, {area}.
Good evening, this is Mrs {name}. I want to eat with you on {day}. It's {guests}, from {time}, {area}.
We celebrate a birthday on {day}! Table for {guests}, {area}, at {time}. Thank you, {name}
Would {time} on {day} work? {Guests}, {area} if that's possible. Mr {name}
My name is {name} and I'm looking for a table {area}: {guests}, {day}, about {time}.
One booking please: {guests} / {day} / {time} / {area} / {name}
Dear team, last time was lovely. We'd come again on {day}, {guests}, at {time}. Put us {area}. Yours, the {name} family
{day} it is. {time}. {Guests}. Seats {area}. Cheers, {name}
I rang but the line was busy. I need a table for {guests}, {area}, {day} at {time}. {name} is the name.
For {name}: {guests}, please, {area}. {day} at {time} would suit us best.
Do you have room for {guests} on {day}? {time} would be ideal, {area}. Regards, {name}
Booking request from Dr {name}, arriving {day} at {time}. Number of guests: {guests}. Seating: {area}.
Can the {name}s come round on {day} at {time}? It's {guests}, and we'd sit {area}.
Evening! {Area}, {guests}, {time}, {day}. You know me, it's {name}.
I promised my mother a dinner {area}. {day}, {time}, {guests}, name of {name}.
Ciao, {name} speaking. Save something {area} for {guests}? We'll be there on {day} at {time}.
After the theatre on {day} we're hungry: {guests}, {time}, {area}. Reserve it for {name}.
Table {area} wanted. When: {day}, {time}. Who: {name}, {guests}.
We are {guests} and hope to get a place {area} on {day}. Would {time} be all right? Signed {name}
This is the office of Ms {name}. She'd like to dine on {day} at {time}, {guests}, {area}.
No allergies this time. {Guests}, {day}, {time}, {area}. Thanks a lot, {name}.
Put {name} down for {day}, {time}. {Guests} are coming and we'd love to be {area}.""".splitlines()
TEST_FRAMES = """Any chance of a table on {day}? There'd be {guests}, we'd arrive at {time} and sit {area}. For {name}.
Ms {name} again, your Tuesday regular for years. Please note down {guests}, {area}, {day} at {time}.
Anniversary dinner! {day}, {area}, {time}. {Guests}. The reservation goes to {name}.
Kindly hold a table for Professor {name}: {time} on {day}, {guests}, {area}.
Our train gets in on {day}, so {time} is realistic. {Guests}, {area}. Under {name}, please.
Seating {area} for {guests}. Date: {day}. Hour: {time}. Customer: {name}.
We had pizza at yours and want more. {name}, {guests}, coming {day} around {time}, {area}.
I'm {name}. What about {day} at {time} for {guests}? We like it {area}.""".splitlines()


def main() -> None:
    """Write both files."""
    rng = random.Random(1)
    _write("train", [_row(rng, TRAIN_FRAMES, TRAIN_NAMES, number) for number in range(TRAIN_ROWS)], rng)
    _write("test", [_row(rng, TEST_FRAMES, TEST_NAMES, number) for number in range(TEST_ROWS)], rng)


def _write(name: str, rows: list[dict[str, object]], rng: random.Random) -> None:
    rng.shuffle(rows)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _row(rng: random.Random, frames: list[str], names: list[str], number: int) -> dict[str, object]:
    name = rng.choice(names)
    guests, guests_text = _drawn(rng, GUESTS)
    day, day_text = _drawn(rng, DAYS)
    time, time_text = _drawn(rng, TIMES)
    area, area_text = _drawn(rng, AREAS)
    message = frames[number % len(frames)].format(
        name=name,
        guests=guests_text,
        Guests=guests_text[0].upper() + guests_text[1:],
        day=day_text,
        time=time_text,
        area=area_text,
        Area=area_text[0].upper() + area_text[1:],
    )
    record = {"name": name, "guests": guests, "day": day, "time": time, "area": area}
    answer = json.dumps(record, ensure_ascii=False)
    turns = (("system", SYSTEM), ("user", message), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _drawn(rng: random.Random, wordings: Sequence[tuple[Value, str]]) -> tuple[Value, str]:
    """Return a value and one of its wordings."""
    value, texts = rng.choice(wordings)
    return value, rng.choice(texts.split("|"))


if __name__ == "__main__":
    main()
