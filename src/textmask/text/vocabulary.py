"""Which words of a sentence carry its content, and which of them medicine or a training set knows."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from textmask.text.report_grammar import (
    ABBREVIATIONS,
    AFTER,
    FINDINGS,
    NOUNS,
    OTHER,
    PLEURAL,
    REPORT_LEVELS,
)
from textmask.text.words import CHEST, NUMBERS, SIDES, clean, repair, split_words

# words that any sentence may have, about pictures or not
FUNCTION = frozenset(
    "a an the and or but of in on at to from by with without within for as into over under near is are was "
    "were be been has have had there this that these those it its he she they his her their you we i me my "
    "your our no not nor none all any some many few more most less which who whom what where when while until "
    "before after again about up down do does did done can could may might will would shall should must than "
    "then so if because both each other such only also very just out off through between during one's s t "
    "please".split()
)
# what neither tells a medical sentence from another ("She left the room at nine"), nor is ever wrong in one
NEUTRAL = FUNCTION | frozenset(SIDES) | frozenset(REPORT_LEVELS) | frozenset(NUMBERS)
MEDICAL = (
    (
        CHEST
        | NOUNS
        | FINDINGS
        | PLEURAL
        | OTHER
        | (AFTER - {"free", "cleared", "spared"})
        | frozenset(ABBREVIATIONS)
    )
    | frozenset(
        "abdomen abdominal abscess acute adenoma alveolar aneurysm anterior appendix artery atelectatic "
        "attenuation axilla biopsy bladder blood bone bowel brain breast bronchi bronchial bronchus calcification "
        "calcified calculus cancer carcinoma cavity cavitary cavitation cell cells cervix chest chronic colon "
        "colonic colonoscopy congestion contrast covid ct cyst cystic cytoplasm diaphragm diffuse disc duct "
        "duodenum echogenic emphysema endoscopic endoscopy enhancement enlarged epithelium fibrosis fibrotic film "
        "fissure flair flat fluid focal foci fracture gallbladder gland glands glass glioma granuloma groundglass "
        "haemorrhage hazy heart hemorrhage hepatic hernia hypodense hyperdense hypoechoic image infarct "
        "infarction inflammation infected injury interstitial intestine joint kidney lateral lesion ligament "
        "liver lumen lump lymph lymphadenopathy malignant margin medial melanoma membrane meniscus metastases "
        "metastasis metastatic mole mri mucosa multifocal muscle necrosis necrotic nerve node nodes nodular "
        "nuclei nucleus oedematous oesophagus esophagus oncocytic optic organ ovary pancreas patchy pathological "
        "patient peripheral pigmented pleura pneumonic pneumonitis polyp polyps posterior prostate pulmonary "
        "quadrant radiograph rectum region renal reticular retina retinal scan scar scarring sessile skin skull "
        "spine spleen stenosis stomach stone subpleural swelling thickening thoracic thorax thrombus thyroid "
        "tissue trachea tube tumor tumors tumour tumours ulcer ultrasound unifocal ureter uterus vein ventral "
        "vertebra vertebral vessel vessels xray benign round oval irregular".split()
    )
) - NEUTRAL
_SUFFIX = re.compile(
    r"\w{3,}(?:itis|oma|omas|omata|osis|oses|pathy|ectasis|ectasia|aemia|emia|megaly)$"
)


@lru_cache(maxsize=4096)
def content_words(sentence: str) -> tuple[str, ...]:
    """The distinct words that say what is meant: not those every sentence has, and no sides, levels and numbers."""
    words = (word for word in split_words(clean(sentence)[0]) if word.isalpha())
    return tuple(
        dict.fromkeys(word for word in words if word not in NEUTRAL and repair(word) not in NEUTRAL)
    )


def is_medical(word: str) -> bool:
    """Whether a word is one of medicine's, by a short list and by its ending."""
    known = {word, repair(word), word.removesuffix("s"), word.removesuffix("es")} & MEDICAL
    return bool(known) or _SUFFIX.match(word) is not None


def known_share(sentence: str, vocabulary: Collection[str] = ()) -> float | None:
    """Share of the content words that medicine or `vocabulary` knows; None where the sentence has none."""
    words = content_words(sentence)
    return (
        sum(word in vocabulary or is_medical(word) for word in words) / len(words)
        if words
        else None
    )


def unknown_words(sentence: str, vocabulary: Collection[str]) -> tuple[str, ...]:
    """The content words that are not in `vocabulary`, also not as they were meant."""
    return tuple(
        word
        for word in content_words(sentence)
        if word not in vocabulary and repair(word) not in vocabulary
    )
