"""Recognizes the parts of a split (train, val, test) in folder names: ``Training``, ``seg_test``, ``Testdaten``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from tlexport.dataset import Part

PART_WORDS: dict[str, Part] = {
    **dict.fromkeys(("training", "train", "trn"), "train"),
    **dict.fromkeys(("validation", "validating", "validate", "valid", "val", "development", "devel", "dev", "evaluation", "eval"), "val"),
    **dict.fromkeys(("testing", "test", "tst"), "test"),
}
# the same words in other languages: German, French, Spanish, Portuguese, Italian, Russian, Chinese, Japanese, Korean
_TRANSLATED: dict[str, Part] = {
    **dict.fromkeys(("trainings", "entrainement", "entraînement", "apprentissage", "entrenamiento", "treinamento", "treino"), "train"),
    **dict.fromkeys(("addestramento", "обучение", "训练", "訓練", "学習", "훈련", "학습"), "train"),
    **dict.fromkeys(("validierungs", "validierung", "validación", "validacion", "validação", "validacao", "validazione"), "val"),
    **dict.fromkeys(("évaluation", "валидация", "验证", "驗證", "検証", "검증"), "val"),
    **dict.fromkeys(("pruebas", "prueba", "testes", "teste", "тест", "测试", "測試", "テスト", "테스트"), "test"),
}
PART_WORDS |= _TRANSLATED
KNOWN = (
    "train, training, val, valid, validation, dev, eval, test, testing; also as train_set, test-images, seg_train and the like, in any case"
)

# words without information on part or class
_CONTENTS = [
    "datasets",
    "dataset",
    "data",
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "pics",
    "photos",
    "samples",
    "files",
    "folder",
    "raw",
    "datensatz",
    "daten",
    "bilder",
    "données",
    "donnees",
    "datos",
    "imágenes",
    "dados",
    "dati",
    "данные",
    "数据",
    "資料",
    "データ",
]
_FILLERS = [*_CONTENTS, "de", "d", "集", "用", "セット", "seg", "sets", "set", "cls", "part", "split"]
_BESIDE = ["masks", "labels", "annotations"]  # folders beside the images in data of other tasks
# words of a split for none of the three parts
_OTHERS = [
    "holdout",
    "heldout",
    "predictions",
    "prediction",
    "predict",
    "pred",
    "unlabelled",
    "unlabeled",
    "nolabels",
    "inference",
    "submission",
]
_NUMBERED = ["kfolds", "kfold", "folds", "fold", "cv", "split", "subset", "partition", "part", "batch", "shard", "chunk", "group", "set"]


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_TOKEN = re.compile(f"(?:{_any_of((*PART_WORDS, *_FILLERS))})+")
_PIECE = re.compile(_any_of((*PART_WORDS, *_FILLERS)))
_NUMBER = re.compile(r"\d+|[a-z]")
_FOLD = re.compile(rf"(?:{_any_of(_NUMBERED)})[\W_]*(?:\d+|[a-z])")
_DOMAIN = re.compile(f"(?:{_any_of(PART_WORDS)})[ab]")  # trainA and trainB of image-to-image translation


class _Name(NamedTuple):
    parts: tuple[Part, ...]  # the parts that words of the name mean
    rest: tuple[str, ...]  # other words and numbers
    odd: bool  # consists only of words of a split and numbers


def part_of(name: str) -> Part | None:
    """The part that a name means if it consists of words of one part and fillers; otherwise None."""
    parsed = _parse(name)
    return parsed.parts[0] if len(set(parsed.parts)) == 1 and not parsed.rest else None


def parts_of(names: Iterable[str]) -> dict[str, Part]:
    """The names that mean a part. ``birds_train`` and ``birds_test`` do if all names differ only in such a word."""
    parsed = {name: _parse(name) for name in names}
    shared = len({item.rest for item in parsed.values()}) == 1 and len(parsed) > 1
    found = {name: item for name, item in parsed.items() if len(set(item.parts)) == 1 and (shared or not item.rest)}
    if shared and len(found) < len(parsed):
        found = {name: item for name, item in found.items() if not item.rest}
    return {name: item.parts[0] for name, item in found.items()}


def resembles_part(name: str) -> bool:
    """Whether a name has words of a split but means no known part: ``test1``, ``train_val``, ``seg_pred``, ``trainA``."""
    return part_of(name) is None and _parse(name).odd


def is_numbered(name: str) -> bool:
    """Whether a name belongs to a series of folds or batches: ``fold1``, ``split_a``."""
    return bool(_FOLD.fullmatch(_plain(name)))


def is_filler(name: str) -> bool:
    """Whether a name does not describe the content of images: ``images``, ``data``, ``masks``."""
    tokens = re.findall(r"[^\W_]+", _plain(name))
    return bool(tokens) and all(re.fullmatch(f"(?:{_any_of((*_CONTENTS, *_BESIDE))})+", token) for token in tokens)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _parse(name: str) -> _Name:
    parts: list[Part] = []
    rest, odd, split = [], True, False
    for token in re.findall(r"[^\W\d_]+|\d+", re.sub(r"(held|hold)[\W_]+out", "holdout", _plain(name))):
        if _TOKEN.fullmatch(token):
            parts += [PART_WORDS[piece] for piece in _PIECE.findall(token) if piece in PART_WORDS]
            continue
        rest.append(token)
        split = split or token in _OTHERS or bool(_DOMAIN.fullmatch(token))
        odd = odd and (token in _OTHERS or bool(_NUMBER.fullmatch(token)) or bool(_DOMAIN.fullmatch(token)))
    return _Name(tuple(parts), tuple(rest), odd and (bool(parts) or split))
