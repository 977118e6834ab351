"""Italian and French words of drawings' names in English: two authors of openclipart-png named theirs so."""

WORDS = """
abitazione house|acquila eagle|aglio garlic|agnellini lambs|albero tree|ambulanza ambulance|anatra duck
anelli rings|ape bee|appunti notes|aquila eagle|architetto architect|asso ace|attenzione attention|barattolo jar
betoniera mixer|bicicletta bicycle|binocolo binoculars|birra beer|blocco block|borsa bag|borsetta handbag
bottiglia bottle|bussola compass|cacciavite screwdriver|caffe coffee|calamita magnet|calcolatrice calculator
cammello camel|candela candle|canguro kangaroo|carpentiere carpenter|carta paper|cartella folder|casa house
casco helmet|cavalletta grasshopper|cavalli horses|cavallo horse|cestino basket|cesto basket|chiave key
cigno swan|cinepresa camera|citta city|clessidra hourglass|coccinella ladybug|con with|condominio flats
coniglio rabbit|corridore runner|corsa running|cubo cube|decorazione decoration|dei of|del of|della of
dentata toothed|di of|dinosauri dinosaurs|dinosauro dinosaur|disco disk|donna woman|dottore doctor|eau water
echelle ladder|elefante elephant|extincteur extinguisher|fabbrica factory|farfalla butterfly
farfalle butterflies|fattoria farm|festa party|finestra window|finestre windows|fiocco bow|fiore flower
fiori flowers|foglia leaf|foglie leaves|foglio sheet|forbici scissors|fuoco fire|gabbiano gull|gallina hen
gatti cats|gatto cat|gelato icecream|giallo yellow|giardino garden|glace icecream|grattacieli skyscrapers
grigi grey|grigia grey|griglia grid|guanti gloves|inflammable flammable|insetto insect|interdiction forbidden
interdite forbidden|lampada lamp|legno wood|lente lens|leone lion|lettera letter|libro book|lucchetto padlock
lucertola lizard|lumaca snail|macchina machine|mattone brick|mazzo bunch|microscopio microscope|mondo world
montagna mountain|moschito mosquito|motosega chainsaw|mucca cow|mucche cows|nero black|neve snow|nuage cloud
obligatoire required|orme footprints|orso bear|ours bear|palloncini balloons|papera duckling|pecora sheep
pecorella sheep|pennello brush|pera pear|pesca peach|pescetto fish|piccolo small|piedi feet|pietons walkers
pinguino penguin|pinzatrice stapler|pinze pliers|poltrona armchair|pomodori tomatoes|principessa princess
profilo profile|prugna plum|pulsante button|ragazza girl|ragazzo boy|ragno spider|rana frog|ravanello radish
regalo gift|risque risk|rosa rose|rossa red|rosse red|rosso red|ruota wheel|sapone soap|scala ladder
scatolone box|scodella bowl|secchio bucket|secours emergency|sedia chair|sega saw|serratura lock|signore man
signorina lady|simbol symbol|simbolo symbol|siringa syringe|sole sun|sortie exit|spugna sponge|stampante printer
struzzo ostrich|sulla on|tacchino turkey|tasto key|tavola table|tavolo table|tazza cup|teiera teapot
telecamera camera|telefono telephone|televisore television|tenda tent|teschio skull|tigre tiger|torta cake
toxique toxic|trattore tractor|uccello bird|umano human|uovo egg|utensili tools|valigie suitcases|verde green
verdi green|vestito dress|vino wine|viola violet|viti screws|zaino backpack|zanzara mosquito|zucca pumpkin
"""
ENGLISH: dict[str, str] = {
    foreign: english for pair in WORDS.replace("\n", "|").split("|") if pair for foreign, english in [pair.split()]
}
