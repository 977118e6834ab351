"""Italian and French words of drawings' names in English: two authors of openclipart-png named theirs so."""

WORDS = """
abitazione house|acquila eagle|aquila eagle|aglio garlic|agnellini lambs|albero tree|ambulanza ambulance|anatra duck
anelli rings|ape bee|appunti notes|architetto architect|asso ace|attenzione attention|barattolo jar|betoniera mixer
bicicletta bicycle|binocolo binoculars|birra beer|blocco block|borsa bag|borsetta handbag|bottiglia bottle|bussola compass
cacciavite screwdriver|caffe coffee|calamita magnet|calcolatrice calculator|cammello camel|candela candle|canguro kangaroo
carpentiere carpenter|carta paper|cartella folder|casa house|casco helmet|cavalletta grasshopper|cavallo horse|cestino basket
cesto basket|chiave key|cigno swan|cinepresa camera|citta city|clessidra hourglass|coccinella ladybug|condominio flats
coniglio rabbit|corridore runner|corsa running|cubo cube|decorazione decoration|dinosauri dinosaurs|dinosauro dinosaur
disco disk|donna woman|dottore doctor|elefante elephant|fabbrica factory|farfalla butterfly|farfalle butterflies|fattoria farm
festa party|finestra window|finestre windows|fiocco bow|fiore flower|fiori flowers|foglia leaf|foglie leaves|foglio sheet
forbici scissors|fuoco fire|gabbiano gull|gallina hen|gatti cats|gatto cat|gelato icecream|giallo yellow|giardino garden
grattacieli skyscrapers|grigia grey|grigi grey|griglia grid|guanti gloves|insetto insect|lampada lamp|legno wood|leone lion
lente lens|lettera letter|libro book|lucchetto padlock|lucertola lizard|lumaca snail|macchina machine|mazzo bunch
mattone brick|microscopio microscope|mondo world|montagna mountain|moschito mosquito|motosega chainsaw|mucca cow|mucche cows
nero black|neve snow|nuage cloud|orme footprints|orso bear|ours bear|palloncini balloons|papera duckling|pecora sheep
pecorella sheep|pennello brush|pera pear|pesca peach|pescetto fish|piccolo small|piedi feet|pinguino penguin|pinze pliers
pinzatrice stapler|poltrona armchair|pomodori tomatoes|principessa princess|profilo profile|prugna plum|pulsante button
ragazza girl|ragazzo boy|ragno spider|rana frog|ravanello radish|regalo gift|rosa rose|rossa red|rosse red|rosso red
ruota wheel|dentata toothed|sapone soap|scala ladder|scatolone box|scodella bowl|secchio bucket|sedia chair|sega saw
serratura lock|signore man|signorina lady|simbol symbol|simbolo symbol|siringa syringe|sole sun|spugna sponge
stampante printer|struzzo ostrich|tacchino turkey|tasto key|tavolo table|tavola table|tazza cup|teiera teapot|telecamera camera
telefono telephone|televisore television|tenda tent|teschio skull|tigre tiger|torta cake|trattore tractor|uccello bird
umano human|uovo egg|utensili tools|valigie suitcases|verde green|verdi green|vestito dress|vino wine|viola violet|viti screws
zaino backpack|zanzara mosquito|zucca pumpkin|protection protection|obligatoire required|sortie exit|secours emergency
danger danger|interdiction forbidden|interdite forbidden|extincteur extinguisher|echelle ladder|eau water|glace icecream
inflammable flammable|pietons walkers|toxique toxic|risque risk|cavalli horses|con with|del of|della of|dei of|sulla on|di of
"""
ENGLISH: dict[str, str] = {
    foreign: english for pair in WORDS.replace("\n", "|").split("|") if pair for foreign, english in [pair.split()]
}
