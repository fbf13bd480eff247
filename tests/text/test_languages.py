"""Reports in five languages at the level of the caption grammar; other languages are named and never half-read."""

import pytest
from zone_words import zones

from textmask.errors import LateralityError
from textmask.inference.laterality import translate
from textmask.io.orientation import Orientation
from textmask.statement import Laterality
from textmask.text.findings import read_findings
from textmask.text.grammar import parse
from textmask.text.translation import LANGUAGES, NAMES, language_vocabulary

SENTENCES = {
    "de": [
        ("Verschattung im linken Unterlappen.", "L:l", ""),
        ("Infiltrat rechts basal.", "R:l", ""),
        ("Kein Pneumothorax links.", "", "L:uml"),
        ("Oberlappeninfiltrat rechts.", "R:u", ""),
        ("Beidseitige Unterfeldverschattungen.", "LR:l", ""),
        ("Die rechte Lunge ist frei.", "", "R:uml"),
        ("Rundherd im rechten Oberlappen, 8 mm.", "R:u", ""),
        ("Kleiner Pleuraerguss links, kein Pneumothorax.", "L:uml", ""),
        ("Narbige Veränderung in der linken Lungenspitze.", "L:u", ""),
        ("Konsolidierung im Mittellappen rechts.", "R:m", ""),
        ("Atelektase im linken Unterfeld ohne Erguss.", "L:l", ""),
        ("Verdacht auf Pneumonie im rechten Unterlappen.", "R:l", ""),
        ("Rippenfraktur links.", "", ""),
        ("ZVK von rechts.", "", ""),
        ("Kein Nachweis von Infiltraten in der rechten Lunge.", "", "R:uml"),
        ("Perihiläre Verdichtungen beidseits.", "LR:m", ""),
        ("Linksbasale Dystelektase.", "L:l", ""),
    ],
    "es": [
        ("Opacidad en el lóbulo inferior izquierdo.", "L:l", ""),
        ("Consolidación en la base derecha.", "R:l", ""),
        ("Sin neumotórax derecho.", "", "R:uml"),
        ("Derrame pleural izquierdo.", "L:uml", ""),
        ("Nódulo en el vértice derecho.", "R:u", ""),
        ("El pulmón izquierdo está libre.", "", "L:uml"),
        ("Infiltrados en ambas bases.", "LR:l", ""),
        ("Atelectasia en el lóbulo medio derecho.", "R:m", ""),
        ("No se observa consolidación en el pulmón derecho.", "", "R:uml"),
        ("Opacidades perihiliares bilaterales.", "LR:m", ""),
        ("Neumonía en el lóbulo superior derecho, sin derrame.", "R:u", ""),
        ("Fractura de la clavícula izquierda.", "", ""),
        ("Cicatriz en el ápice izquierdo.", "L:u", ""),
        ("Posible neumonía en la base izquierda.", "L:l", ""),
        ("Opacidades en los lóbulos inferiores derecho e izquierdo.", "LR:l", ""),
    ],
    "fr": [
        ("Opacité du lobe inférieur gauche.", "L:l", ""),
        ("Pas de pneumothorax droit.", "", "R:uml"),
        ("Condensation de la base droite.", "R:l", ""),
        ("Épanchement pleural gauche.", "L:uml", ""),
        ("Le poumon droit est libre.", "", "R:uml"),
        ("Nodule du sommet droit.", "R:u", ""),
        ("Opacités des deux bases.", "LR:l", ""),
        ("Atélectasie du lobe moyen droit.", "R:m", ""),
        ("Foyer du lobe supérieur gauche sans épanchement.", "L:u", ""),
        ("Absence de condensation du poumon gauche.", "", "L:uml"),
        ("Opacités hilaires bilatérales.", "LR:m", ""),
        ("Fracture de la clavicule gauche.", "", ""),
        ("Infiltrat lingulaire.", "L:m", ""),
        ("Possible pneumopathie de la base gauche.", "L:l", ""),
        ("Séquelles apicales droites.", "R:u", ""),
    ],
    "it": [
        ("Addensamento al lobo inferiore sinistro.", "L:l", ""),
        ("Versamento pleurico destro.", "R:uml", ""),
        ("Non pneumotorace a sinistra.", "", "L:uml"),
        ("Opacità alla base destra.", "R:l", ""),
        ("Nodulo all'apice destro.", "R:u", ""),
        ("Il polmone sinistro è libero.", "", "L:uml"),
        ("Addensamenti in entrambe le basi.", "LR:l", ""),
        ("Atelettasia del lobo medio destro.", "R:m", ""),
        ("Polmonite del lobo superiore sinistro senza versamento.", "L:u", ""),
        ("Non si osservano addensamenti nel polmone destro.", "", "R:uml"),
        ("Opacità perilari bilaterali.", "LR:m", ""),
        ("Frattura della clavicola sinistra.", "", ""),
        ("Esiti cicatriziali all'apice sinistro.", "L:u", ""),
        ("Possibile polmonite alla base sinistra.", "L:l", ""),
        ("Infiltrato della lingula.", "L:m", ""),
    ],
    "pt": [
        ("Opacidade no lobo inferior esquerdo.", "L:l", ""),
        ("Derrame pleural direito.", "R:uml", ""),
        ("Sem pneumotórax à esquerda.", "", "L:uml"),
        ("Consolidação na base direita.", "R:l", ""),
        ("Nódulo no ápice direito.", "R:u", ""),
        ("O pulmão esquerdo está livre.", "", "L:uml"),
        ("Infiltrados em ambas as bases.", "LR:l", ""),
        ("Atelectasia do lobo médio direito.", "R:m", ""),
        ("Pneumonia no lobo superior esquerdo, sem derrame.", "L:u", ""),
        ("Não se observa consolidação no pulmão direito.", "", "R:uml"),
        ("Opacidades peri-hilares bilaterais.", "LR:m", ""),
        ("Fratura da clavícula esquerda.", "", ""),
        ("Cicatriz no ápice esquerdo.", "L:u", ""),
        ("Possível pneumonia na base esquerda.", "L:l", ""),
        ("Opacidade na língula.", "L:m", ""),
    ],
}
ROWS = [(code, *row) for code, rows in SENTENCES.items() for row in rows]


@pytest.mark.parametrize(("code", "sentence", "affected", "free"), ROWS)
def test_sides_levels_and_denials_of_five_languages(code, sentence, affected, free):
    statement = parse(sentence)
    assert statement.language == code
    assert (set(statement.zones), set(statement.negated)) == (zones(affected), zones(free))


@pytest.mark.parametrize(
    "sentence",
    [
        "Kein Pneumothorax.",
        "Pas d'épanchement.",
        "Sin derrame pleural.",
        "Nessun versamento.",
        "Sem derrame pleural.",
        "Keine Infiltrate, kein Erguss.",
        "Pas de pneumothorax, pas d'épanchement.",
        "Non segni di pneumotorace.",
    ],
)
def test_denials_of_other_languages_deny(sentence):
    statement = parse(sentence)
    assert statement.absent
    assert not statement.zones


@pytest.mark.parametrize(
    "sentence",
    [
        "Geen pneumothorax links.",
        "Infiltraat in de linker onderkwab.",
        "Naciek w płacie dolnym prawym.",
        "Brak odmy po stronie lewej.",
        "Ingen pneumothorax på venstre side.",
        "Inget infiltrat i vänster lunga.",
        "Sağ akciğer alt lobda konsolidasyon.",
        "Ei pneumothoraxia vasemmalla.",
        "Nincs folyadék a bal oldalon.",
        "Opacitate în plămânul stâng.",
        "Затемнение в нижней доле левого лёгкого.",
        "左肺に浸潤影",
        "肺部感染",
        "عتامة في الرئة اليسرى",
        "Infiltrace v levém dolním laloku.",
        "Tidak ada efusi di paru kiri.",
    ],
)
def test_other_languages_are_named_and_nothing_of_them_is_read(sentence):
    statement = parse(sentence)
    assert "other_language" in statement.warnings
    assert (statement.zones, statement.negated, statement.absent, statement.language) == (
        frozenset(),
        frozenset(),
        False,
        "",
    )
    assert not read_findings(sentence).items
    with pytest.raises(LateralityError, match="cannot be rewritten safely"):
        translate(sentence, Laterality.PATIENT, Laterality.IMAGE, Orientation("L", "F"))


@pytest.mark.parametrize(
    "sentence",
    [
        "Opacity in the left lower lobe.",
        "No effusion.",
        "pneumothorax",
        "Hello World",
        "lft base",
        "Infiltrate basal right",
        "The train to the coast departs at nine.",
        "XXXX opacity",
        "RLL infiltrate",
        "Naïve patient, left base opacity",
        "unknown",
        "a",
        "Diffuse infiltrates.",
        "Hiatal hernia.",
        "Tumor in situ, left lung",
        "one medium tan polyp",
    ],
)
def test_english_stays_english(sentence):
    assert parse(sentence).language == "en"


def test_findings_of_other_languages_have_the_same_names():
    assert parse("Kleiner Pleuraerguss links.").findings[0].kind == "effusion"
    assert parse("Nodule du sommet droit.").findings[0].kind == "nodule"
    assert read_findings("Opacidad en la base izquierda. Sin derrame.").named == (
        "Opacidad en la base izquierda",
    )


def test_every_language_has_a_file_and_a_name():
    assert set(NAMES) == {"en", *LANGUAGES}
    for code in LANGUAGES:
        assert len(language_vocabulary(code).words) > 200
