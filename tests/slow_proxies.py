"""Losses of proxies in plain Python, image by image and class by class."""

import itertools
import math
from typing import Any

import numpy as np

Options = dict[str, Any]


def loss(name: str, x: np.ndarray, rows: np.ndarray, labels: list[int], o: Options) -> float:
    """Returns the loss of unit vectors x[B, D] and rows[C, D] or [C, K, D]."""
    if name == "proxy_anchor":
        return _proxy_anchor(x @ rows.T, labels, o)
    by_name = {
        "proxy_nca": _proxy_nca,
        "soft_triple": _soft_triple,
        "arcface": _arcface,
        "sub_center_arcface": _arcface,
    }
    of_image = by_name.get(name, _soft_max)
    mean = sum(of_image(name, a, rows, y, o) for a, y in zip(x, labels, strict=True)) / len(x)
    return mean + (o["tau"] * _center_spread(rows) if name == "soft_triple" else 0)


def _proxy_anchor(s: np.ndarray, labels: list[int], o: Options) -> float:
    total, num_classes = 0.0, s.shape[1]
    for c in range(num_classes):
        same_class = sum(
            math.exp(-o["alpha"] * (s[i, c] - o["margin"])) for i, y in enumerate(labels) if y == c
        )
        other_classes = sum(
            math.exp(o["alpha"] * (s[i, c] + o["margin"])) for i, y in enumerate(labels) if y != c
        )
        total += (
            math.log(1 + same_class) / len(set(labels)) + math.log(1 + other_classes) / num_classes
        )
    return total


def _proxy_nca(name: str, a: np.ndarray, rows: np.ndarray, y: int, o: Options) -> float:
    d = [o["scale"] * sum((a - p) ** 2) for p in rows]
    counted = [z for z in range(len(rows)) if z != y or o["denominator"] == "all"]
    return d[y] + math.log(sum(math.exp(-d[z]) for z in counted))


def _soft_max(name: str, a: np.ndarray, rows: np.ndarray, y: int, o: Options) -> float:
    s = [float(a @ p) for p in rows]
    if name == "cosface":
        s[y] -= o["margin"]
    scale = 1 / o["temperature"] if name == "normalized_softmax" else o["scale"]
    return _cross_entropy([scale * value for value in s], y)


def _arcface(name: str, a: np.ndarray, rows: np.ndarray, y: int, o: Options) -> float:
    """Returns the loss of the nearest of each class's centers, or of its only one."""
    s = [max(float(a @ center) for center in np.atleast_2d(centers)) for centers in rows]
    margin = o["margin"]
    if o["size_exponent"]:
        margin /= o["class_sizes"][y] ** o["size_exponent"]
    s[y] = math.cos(math.acos(s[y]) + margin + o["least_margin"])
    return _cross_entropy([o["scale"] * value for value in s], y)


def _soft_triple(name: str, a: np.ndarray, rows: np.ndarray, y: int, o: Options) -> float:
    logits = []
    for centers in rows:
        s = centers @ a
        weights = [math.exp(value / o["gamma"]) for value in s]
        logits.append(o["la"] * sum(w * v for w, v in zip(weights, s, strict=True)) / sum(weights))
    logits[y] -= o["la"] * o["margin"]
    return _cross_entropy(logits, y)


def _cross_entropy(logits: list[float], y: int) -> float:
    return -math.log(math.exp(logits[y]) / sum(math.exp(value) for value in logits))


def _center_spread(rows: np.ndarray) -> float:
    num_classes, num_centers, _ = rows.shape
    pairs = [pair for centers in rows for pair in itertools.combinations(centers, 2)]
    total = sum(math.sqrt(2 - 2 * a @ b) for a, b in pairs)
    return total / (num_classes * num_centers * (num_centers - 1))
