"""Names of things that fill the slots of the corpus: products, brands, places, people, and parts of invented words."""

PRODUCTS = tuple(
    """kettle|doorbell|speaker|router|lamp|vacuum|pair of headphones|thermostat|camera|monitor|keyboard|charger|projector|
    toaster|coffee machine|blender|fan|heater|printer|mouse|tablet|smart watch|soundbar|microphone|webcam|hard drive|
    power bank|desk light|night light|air purifier|humidifier|iron|hair dryer|shaver|toothbrush|scale|radio|alarm clock|
    turntable|television|remote control|smart plug|light bulb|door lock|baby monitor|robot vacuum|steam cleaner|oven|
    microwave|rice cooker|mixer|juicer|dishwasher|fridge|freezer|washing machine|game console|controller|headset|
    e-reader|laptop|docking station|USB hub|cable|adapter|battery pack|solar panel|smoke detector|garden light|mower|
    drill|weather station|photo frame|video doorbell|earbuds|phone case|graphics card|memory card|tripod|drone|scanner
    """.replace("\n    ", "")
    .strip()
    .split("|")
)
SERIES = (
    "Aero",
    "Nova",
    "Pico",
    "Terra",
    "Lumo",
    "Vento",
    "Sona",
    "Hydra",
    "Orbit",
    "Solo",
    "Maxi",
    "Core",
    "Air",
    "Prime",
)
BRANDS = (
    "Android",
    "an iPhone",
    "Windows",
    "Alexa",
    "Google Home",
    "Linux",
    "HomeKit",
    "Matter",
    "Zigbee",
    "a Samsung",
)
CARDS = ("Visa", "Mastercard", "PayPal", "Amex", "Apple Pay", "Google Pay", "Klarna", "bank transfer", "my debit card")
COURIERS = ("the courier", "the carrier", "DHL", "UPS", "FedEx", "DPD", "GLS", "the post", "Swiftpost", "Parcelway")
COLOURS = ("black", "white", "red", "blue", "green", "grey", "silver", "yellow", "copper", "pink", "orange", "beige")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December", "Jan", "Feb", "Sept", "Oct", "Nov", "Dec"]  # fmt: skip
CITIES = [
    "Leeds",
    "Porto",
    "Vienna",
    "Dublin",
    "Oslo",
    "Berlin",
    "Madrid",
    "Lyon",
    "Turin",
    "Prague",
    "Boston",
    "Denver",
    "Austin",
    "Toronto",
    "Bristol",
    "Glasgow",
    "Hamburg",
    "Ghent",
    "Malmo",
    "Krakow",
    "Seattle",
    "Chicago",
    "Naples",
    "Zurich",
    "Athens",
    "Riga",
    "Cork",
    "Bergen",
    "Utrecht",
    "Paris",
    "Rome",
    "Lisbon",
]
NAMES = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Elena",
    "Felix",
    "Grace",
    "Henry",
    "Ines",
    "Jonas",
    "Karin",
    "Liam",
    "Maria",
    "Noah",
    "Olivia",
    "Peter",
    "Rosa",
    "Sam",
    "Tara",
    "Victor",
    "Wendy",
    "Yusuf",
    "Zoe",
    "Amir",
    "Priya",
    "Chen",
    "Fatima",
    "Igor",
    "Julia",
    "Marco",
    "Nina",
    "Omar",
    "Paula",
    "Ravi",
    "Sofia",
    "Tom",
    "Lena",
    "Hugo",
    "Marta",
    "Ella",
]
ONSETS = [
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
    "sh",
    "th",
]
VOWELS = ["a", "e", "i", "o", "u", "a", "e", "o", "ai", "ea", "oo"]
CODAS = ("", "", "n", "r", "s", "l", "t", "x", "m")
