"""Places of report sentences: sides that are hard to read, comparisons, other anatomy, levels, measurements."""

import pytest
from zone_words import zones

from textmask.errors import LateralityError
from textmask.inference.laterality import translate
from textmask.statement import Laterality
from textmask.text.grammar import parse


@pytest.mark.parametrize(
    ("sentence", "affected"),
    [
        ("Lft lung opacity", "L:uml"),
        ("opacity in rght upper lobe", "R:u"),
        ("opacity in the lrft base", "L:l"),
        ("leeft apical nodule", "L:u"),
        ("riht base infiltrate", "R:l"),
        ("rihgt lower lobe", "R:l"),
        ("let lower lobe opacity", "L:l"),
        ("elft upper lobe opacity", "L:u"),
        ("opacity in the left lwer lobe", "L:l"),
        ("opacity in the right uppr lobe", "R:u"),
        ("bilatral infiltrates", "LR:uml"),
        ("L effusion.", "L:uml"),
        ("Effusion L.", "L:uml"),
        ("Small R pneumothorax.", "R:uml"),
        ("L base opacity.", "L:l"),
        ("R lower lobe infiltrate.", "R:l"),
        ("Opacity at the (L) base.", "L:l"),
        ("Opacity at the base (R).", "R:l"),
        ("Basilar opacities, L>R.", "LR:l"),
        ("Effusions R > L.", "LR:uml"),
        ("Opacities L/R base.", "LR:l"),
        ("L-sided effusion", "L:uml"),
        ("Lt. effusion, rt. apical scar", "L:uml R:u"),
        ("B/L lower lobe opacities", "LR:l"),
        ("Opacity at the Rt base", "R:l"),
    ],
)
def test_odd_spellings_of_a_side_are_read(sentence, affected):
    assert set(parse(sentence, "report").zones) == zones(affected)


@pytest.mark.parametrize(
    "sentence",
    [
        "opacity in the lung",
        "basal opacity",
        "lung opacity",
        "nodule in the upper lobe",
        "opacity at the base",
        "infiltrate in the lower zone of the lung",
        "consolidation of the lobe",
        "apical pneumothorax",
        "opacity in the tight lower lobe",
        "opacity in the lower lobe of the lung",
        "light upper lobe nodule",
        "perihilar opacity",
        "opacity in the middle zone",
        "hemithorax is opacified",
        "pneumonia L?",
        "mass of the lung, please outline",
    ],
)
def test_a_lung_without_a_side_is_refused_and_never_passes(sentence):
    statement = parse(sentence)
    if not {"missing_side", "unread_side"} & set(statement.warnings):
        assert len(statement.sides) == 1  # it was read
        return
    for said in (Laterality.IMAGE, Laterality.PATIENT):
        with pytest.raises(LateralityError, match="side could not be read"):
            translate(sentence, said, said, None)


@pytest.mark.parametrize(
    ("sentence", "affected"),
    [
        ("Bilateral opacities, right greater than left.", "LR:uml"),
        ("Right greater than left basilar opacities.", "LR:l"),
        ("Effusions, left larger than right.", "LR:uml"),
        ("The left base is hazier than the right.", "L:l"),
        ("Compared to the left, the right base is hazy.", "R:l"),
        ("Opacity at the right base is unchanged compared to prior exam.", "R:l"),
        ("Compared with prior exam there is a new left upper lobe opacity.", "L:u"),
        ("Left greater than right pleural effusions with overlying atelectasis.", "LR:uml"),
        ("Biapical scars, worse on the right.", "LR:u"),
        ("Both bases show infiltrates, more pronounced on the left.", "LR:l"),
        ("Left upper zone opacity, larger than on the right.", "L:u"),
        ("Bibasilar atelectasis, left more than right.", "LR:l"),
        ("Bilateral costophrenic blunting, right worse than left.", "LR:l"),
        ("Perihilar opacities, greater on the left.", "LR:m"),
        ("Left lower lobe pneumonia, worse than on prior.", "L:l"),
        ("Right apical scar, similar to the left.", "R:u"),
    ],
)
def test_what_is_compared_adds_and_loses_no_place(sentence, affected):
    assert set(parse(sentence, "report").zones) == zones(affected)


@pytest.mark.parametrize(
    ("sentence", "affected"),
    [
        ("Left humeral head prosthesis.", ""),
        ("The left hemidiaphragm is elevated.", ""),
        ("Elevation of the right hemidiaphragm with right basilar atelectasis.", "R:l"),
        ("Fracture of the clavicle on the left.", ""),
        ("Fracture of the 5th and 6th left ribs, right base opacity.", "R:l"),
        ("Right IJ catheter tip in the SVC.", ""),
        ("Left-sided pacemaker with leads in the right atrium and right ventricle.", ""),
        ("Right chest tube in place. Small right apical pneumothorax.", "R:u"),
        ("Tip of the tube in the right main bronchus with left lung collapse.", "L:uml"),
        ("Surgical clips in the right upper quadrant.", ""),
        ("Degenerative changes in the mid thoracic spine.", ""),
        ("Left ventricular prominence.", ""),
        ("Right shoulder arthroplasty, left apical pleural thickening.", "L:u"),
        ("Nipple shadow overlying the left base.", ""),
        ("Right-sided aortic arch.", ""),
        ("The left subclavian line is unchanged. Right lower lung opacity.", "R:l"),
        ("Left breast prosthesis. Left base nodule.", "L:l"),
        ("She left the room. Right base opacity.", "R:l"),
        ("The patient left before the second view.", ""),
        ("Left rib fractures, right rib fractures, no pneumothorax.", ""),
    ],
)
def test_the_side_of_other_anatomy_is_no_place_in_a_lung(sentence, affected):
    assert set(parse(sentence, "report").zones) == zones(affected)


@pytest.mark.parametrize(
    ("sentence", "affected"),
    [
        ("Opacity in the superior segment of the right lower lobe.", "R:l"),
        ("Consolidation in the apical segment of the right upper lobe.", "R:u"),
        ("Opacity in the upper part of the left lower lobe.", "L:l"),
        ("Opacity in the lower portion of the left lung.", "L:l"),
        ("Mass at the apex of the right lung.", "R:u"),
        ("Retrocardiac opacity.", "L:l"),
        ("Right perihilar opacities and left base atelectasis.", "R:m L:l"),
        ("Left suprahilar mass.", "L:u"),
        ("The left costophrenic angle is blunted.", "L:l"),
        ("Blunting of both costophrenic angles.", "LR:l"),
        ("Opacities throughout the left lung.", "L:uml"),
        ("Left upper and right lower lobe opacities.", "L:u R:l"),
        ("Airspace disease in right upper, middle and lower lobes.", "R:uml"),
        ("Opacity in the left mid to lower lung.", "L:ml"),
        ("Right pneumothorax measuring 1.5 cm at the apex.", "R:u"),
        ("A 2.5 x 3.1 cm mass is seen in the left upper lobe.", "L:u"),
        ("Opacity in the right upper lobe. It extends to the apex.", "R:u"),
        ("Opacity in the left mid lung. This extends to the base.", "L:ml"),
        ("1. Left base opacity. 2. Right apical scar.", "L:l R:u"),
        ("Opacity in the mid and lower left lung.", "L:ml"),
    ],
)
def test_levels_and_measurements(sentence, affected):
    statement = parse(sentence, "report")
    assert set(statement.zones) == zones(affected)
    assert statement.count is None


@pytest.mark.parametrize("n", [2_000, 20_000, 200_000])
@pytest.mark.parametrize(
    "part",
    ["left lung opacity and ", "no ", "a:", "(L) ", "worse on the ", "x", "\n", "- a\n", "left, "],
)
def test_long_texts_are_read_in_reasonable_time(part, n):
    from textmask.text.findings import read_findings

    text = part * (n // len(part))
    parse(text)
    read_findings(text)
