"""Questions about the demo corpus in words of their own, each with the file that answers it and words of the passage that does."""

from __future__ import annotations

GOLDEN = [
    ("Who moulded letters out of baked earth long before Europe?", "movable-type.md", "Bi Sheng had made characters"),
    ("Which book printed with cast characters is the earliest that still exists?", "movable-type.md", "Jikji"),
    ("What metals are melted together to make letters and why?", "movable-type.md", "lead, tin and antimony"),
    ("How many copies of the famous Mainz scripture are left today?", "movable-type.md", "Forty-nine copies survive"),
    ("Which newspaper was the first to be produced with a steam engine?", "printing-presses.md", "29 November 1814"),
    ("Inventor crushed by his own machine", "printing-presses.md", "gangrene"),
    ("Why is a certain German press called a windmill?", "printing-presses.md", "rotating pair of arms"),
    ("The famous author who lost a fortune on a typesetting machine", "hot-metal.md", "Mark Twain"),
    ("What does etaoin shrdlu mean?", "hot-metal.md", "Its first two columns read etaoin shrdlu"),
    ("How do used brass moulds find their way back?", "hot-metal.md", "pattern of teeth"),
    ("Why do grease and water matter for printing from limestone?", "stone-and-offset.md", "repel the ink"),
    ("How was printing via a rubber sheet discovered?", "stone-and-offset.md", "missed a sheet"),
    ("Who made the first letters without serifs?", "type-classification.md", "Caslon IV"),
    ("How large is one point?", "type-classification.md", "0.3515 millimetres"),
    ("Where do the words upper case and lower case come from?", "hand-composition.md", "That is where the words come from"),
    ("How do I stop letters from wobbling in the locked frame?", "hand-composition.md", "If a letter dances"),
    ("Rags that start burning on their own", "ink-and-colour.md", "catch fire by themselves"),
    ("Which ink must not be used on glossy coated stock?", "ink-and-colour.md", "rubber-based ink is for uncoated paper only"),
    ("In which direction should fibres run in a bound book?", "paper.md", "parallel to the spine"),
    ("How many extra sheets should I buy for wastage?", "paper.md", "Add spoils to every order"),
    ("What is the surcharge for urgent work?", "job-tickets.md", "40 per cent more"),
    ("Who pays when an error slips through on a signed proof?", "job-tickets.md", "is the customer's"),
    ("How do I find out where the impression is too weak?", "press-makeready.md", "too weak there is nothing"),
    ("What to do when the machine squeaks", "press-makeready.md", "begins to squeal"),
]  # fmt: skip
