"""Our sample of general English, for measuring what an adapter has forgotten: everyday prose on unlike subjects."""

TEXTS = (
    "The library opens at nine in the morning and closes at six in the evening. On Saturdays it closes at noon. If you "
    "want to borrow a book, bring your card with you and ask at the desk near the door.",
    "To make a simple soup, cut two onions and a carrot into small pieces and cook them slowly in a little oil. Add "
    "water, salt and a handful of rice, and let everything boil for twenty minutes. Serve it hot with bread.",
    "My grandmother lived in a small house by the river. Every spring the water rose, and every spring she carried her "
    "chairs upstairs and waited. She said that a river gives back what it takes, only never at the same place.",
    "A square has four equal sides and four right angles. If one side is three metres long, then the area is nine "
    "square metres, and the way around it is twelve metres. A circle of the same area is shorter to walk around.",
    "Could you tell me when the next train leaves? I have to be in town before eight o'clock, and I would like to have "
    "enough time to buy a cup of coffee and read the news before my first meeting of the day.",
    "The moon moves around the earth in about four weeks. Half of it is always lit by the sun, but from here we see "
    "more or less of that half, and so it seems to grow from a thin line to a full disc and then to shrink again.",
)
