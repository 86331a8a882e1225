"""The 87 accessories by where they are worn: for people who choose among them; nets know nothing of it."""

# fmt: off
SHELVES = {
    "Headwear": (
        "Bandana", "Beanie", "Cap", "Cap Forward", "Cowboy Hat", "Do-rag", "Fedora", "Headband", "Hoodie",
        "Knitted Cap", "Pilot Helmet", "Pink With Hat", "Police Cap", "Tassle Hat", "Tiara", "Top Hat",
    ),
    "Hair": (
        "Blonde Bob", "Blonde Short", "Clown Hair Green", "Crazy Hair", "Dark Hair", "Frumpy Hair", "Half Shaved",
        "Messy Hair", "Mohawk", "Mohawk Dark", "Mohawk Thin", "Orange Side", "Peak Spike", "Pigtails", "Purple Hair",
        "Red Mohawk", "Shaved Head", "Straight Hair", "Straight Hair Blonde", "Straight Hair Dark", "Stringy Hair",
        "Vampire Hair", "Wild Blonde", "Wild Hair", "Wild White Hair",
    ),
    "Eyes": (
        "3D Glasses", "Big Shades", "Blue Eye Shadow", "Classic Shades", "Clown Eyes Blue", "Clown Eyes Green",
        "Eye Mask", "Eye Patch", "Green Eye Shadow", "Horned Rim Glasses", "Nerd Glasses", "Purple Eye Shadow",
        "Regular Shades", "Small Shades", "VR", "Welding Goggles",
    ),
    "Mouth": (
        "Black Lipstick", "Buck Teeth", "Cigarette", "Frown", "Hot Lipstick", "Medical Mask", "Pipe", "Purple Lipstick",
        "Smile", "Vape",
    ),
    "Beard": (
        "Big Beard", "Chinstrap", "Front Beard", "Front Beard Dark", "Goat", "Handlebars", "Luxurious Beard",
        "Mustache", "Muttonchops", "Normal Beard", "Normal Beard Black", "Shadow Beard",
    ),
    "Face": ("Clown Nose", "Mole", "Rosy Cheeks", "Spots"),
    "Neck": ("Choker", "Gold Chain", "Silver Chain"),
    "Ears": ("Earring",),
}
# fmt: on
