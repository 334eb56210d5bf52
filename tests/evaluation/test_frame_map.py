"""Frame mAP: by hand, against a plain loop, and against the official evaluation's own answers."""

from __future__ import annotations

import heapq
import json
import math
from pathlib import Path

import numpy as np
import pytest

from vidops.evaluation import LabelledBoxes, frame_map, read_detections, write_detections
from vidops.evaluation.frame_map import average_precision

BOX = (0.2, 0.2, 0.6, 0.6)
ELSEWHERE = (0.7, 0.7, 0.9, 0.9)
GOLDEN = Path(__file__).parent / "golden" / "frame_map.json"


def boxes(*rows):
    """Rows (timestamp, box, class) or (timestamp, box, class, score) of one video."""
    return LabelledBoxes.of(("v", row[0], row[1], row[2], row[3] if len(row) > 3 else 1.0) for row in rows)


def one(truth, detections, **options):
    return frame_map(truth, detections, [0], **options).mean


def test_a_second_detection_of_a_box_is_wrong():
    truth = boxes((1, BOX, 0), (2, BOX, 0))
    # By falling score: right, wrong (found already), right. Precision 1, 1/2, 2/3; recall 1/2, 1/2, 1.
    # Not rising: 1, 2/3, 2/3. Area 1/2 * 1 + 1/2 * 2/3.
    found = boxes((1, BOX, 0, 0.9), (1, BOX, 0, 0.8), (2, BOX, 0, 0.7))
    assert one(truth, found) == pytest.approx(5 / 6, abs=1e-15)


def test_precision_does_not_rise_with_recall():
    truth = boxes(*((t, BOX, 0) for t in range(4)))
    # wrong, right, right, wrong, right: precision 0, 1/2, 2/3, 1/2, 3/5 at recall 0, 1/4, 1/2, 1/2, 3/4.
    # Highest from there on: 2/3, 2/3, 3/5; the last quarter of recall is never reached.
    rows = [(0, ELSEWHERE), (0, BOX), (1, BOX), (1, ELSEWHERE), (2, BOX)]
    found = boxes(*((t, box, 0, 0.9 - 0.1 * i) for i, (t, box) in enumerate(rows)))
    assert one(truth, found) == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 4, abs=1e-15)


def test_a_detection_takes_no_second_best_box():
    # Two overlapping actors, and a detection between them that overlaps both by more than half, the left one more:
    # 0.74 / 0.86 and 0.70 / 0.90. The left one is found already; the right one, though free, is not tried.
    left, right, between = (0.0, 0.0, 0.8, 1.0), (0.16, 0.0, 0.96, 1.0), (0.06, 0.0, 0.86, 1.0)
    truth = boxes((1, left, 0), (1, right, 0))
    assert one(truth, boxes((1, left, 0, 0.9), (1, between, 0, 0.8))) == 0.5
    assert one(truth, boxes((1, left, 0, 0.9), (1, right, 0, 0.8))) == 1.0


def test_a_class_without_truth_is_left_out_and_one_without_detections_is_not():
    truth = boxes((1, BOX, 0), (1, BOX, 1))
    found = frame_map(truth, boxes((1, BOX, 0, 0.9), (1, BOX, 2, 0.9)), [0, 1, 2])
    assert (found.per_class[0], found.per_class[1]) == (1.0, 0.0)
    assert math.isnan(found.per_class[2])
    assert found.mean == 0.5
    assert found.truths == {0: 1, 1: 1, 2: 0}
    assert found.detections == {0: 1, 1: 0, 2: 1}


def test_nothing_to_measure():
    nothing = boxes()
    assert math.isnan(frame_map(nothing, nothing, [0]).mean)
    assert math.isnan(frame_map(nothing, boxes((1, BOX, 0, 0.5)), [0]).mean)
    assert frame_map(boxes((1, BOX, 0)), nothing, [0]).mean == 0.0


def test_scores_of_ground_truth_say_nothing():
    # A detection overlaps two boxes equally; which is tried first is their order in the heap, not their scores.
    left, right, between = (0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0), (0.125, 0.0, 0.625, 1.0)
    found = boxes((1, left, 0, 0.9), (1, between, 0, 0.8))
    for scores in ((1.0, 1.0), (0.1, 0.9), (0.9, 0.1)):
        truth = boxes(*((1, box, 0, score) for box, score in zip((left, right), scores, strict=True)))
        assert one(truth, found) == 0.5


def test_classes_that_are_not_scored_say_nothing():
    truth = boxes((1, BOX, 0), (1, BOX, 5))
    found = boxes((1, BOX, 5, 0.99), (1, BOX, 0, 0.9))
    assert frame_map(truth, found, [0]).per_class == {0: 1.0}


def test_excluded_key_frames_count_neither_for_nor_against():
    truth = boxes((1, BOX, 0), (2, BOX, 0))
    found = boxes((2, ELSEWHERE, 0, 0.9), (1, BOX, 0, 0.8))
    assert one(truth, found) == 0.25  # wrong, then right: 1/2 of the recall at precision 1/2
    assert one(truth, found, excluded={("v", 2.0)}) == 1.0
    assert one(truth, found, excluded={("w", 2.0)}) == 0.25


def test_detections_where_nothing_was_listed_are_wrong():
    assert one(boxes((1, BOX, 0)), boxes((7, BOX, 0, 0.9), (1, BOX, 0, 0.8))) == 0.5


@pytest.mark.parametrize(("right", "expected"), [(0.5, 1.0), (0.51, 0.0)])
def test_an_overlap_of_exactly_half_is_enough(right, expected):
    # Against the whole frame, half of it has IoU 0.5 exactly; wider truth leaves less.
    half = (0.0, 0.0, 1.0, 0.25)
    assert one(boxes((1, (0.0, 0.0, 1.0, right), 0)), boxes((1, half, 0, 0.9))) == expected


def test_boxes_at_the_edge_and_beyond_are_taken_as_they_are():
    # Shares below 0 and above 1 are not cut: (-1, 0, 1, 1) has area 2, the frame overlaps it by exactly half.
    assert one(boxes((1, (-1.0, 0.0, 1.0, 1.0), 0)), boxes((1, (0.0, 0.0, 1.0, 1.0), 0, 0.5))) == 1.0
    assert one(boxes((1, (0.0, 0.0, 0.5, 1.0), 0)), boxes((1, (0.5, 0.0, 1.0, 1.0), 0, 0.5))) == 0.0


def test_a_detection_without_area_is_left_out_but_takes_its_place_among_the_first():
    flat = (0.2, 0.2, 0.2, 0.6)
    truth = boxes((1, BOX, 0))
    assert one(truth, boxes((1, flat, 0, 0.9), (1, BOX, 0, 0.8))) == 1.0
    assert one(truth, boxes((1, flat, 0, 0.9), (1, BOX, 0, 0.8)), per_frame=1) == 0.0


def test_of_equal_scores_the_later_key_frame_counts_first():
    # Both 0.5: reversed, the right one at 2 comes before the wrong one at 1, or after it.
    truth = boxes((2, BOX, 0))
    assert one(truth, boxes((1, BOX, 0, 0.5), (2, BOX, 0, 0.5))) == 1.0
    assert one(truth, boxes((2, BOX, 0, 0.5), (1, BOX, 0, 0.5))) == 0.5


def test_of_equal_scores_in_a_key_frame_the_heap_decides_which_finds_the_box():
    # y1 is compared first after score and class: the heap's root is the smaller y1, whatever was listed first.
    # It finds the box; the other, second there, counts before it among equals: wrong, right.
    smaller, larger = (0.2, 0.20, 0.6, 0.6), (0.2, 0.21, 0.6, 0.6)
    truth = boxes((1, BOX, 0))
    for first, second in ((smaller, larger), (larger, smaller)):
        assert one(truth, boxes((1, first, 0, 0.5), (1, second, 0, 0.5))) == 0.5


def test_the_fifty_best_of_a_key_frame_count():
    truth = boxes(*((1, BOX, c) for c in range(52)))
    falling = boxes(*((1, BOX, c, 0.9 - 0.01 * c) for c in range(52)))
    found = frame_map(truth, falling, range(52))
    assert [c for c, p in found.per_class.items() if p == 0.0] == [50, 51]
    assert frame_map(truth, falling, range(52), per_frame=None).mean == 1.0
    # Of others' classes none takes a place.
    assert frame_map(truth, falling, range(2, 52)).mean == 1.0
    # Of equal scores those listed first: a later one must be higher to push one out.
    equal = boxes(*((1, BOX, c, 0.5) for c in reversed(range(52))))
    found = frame_map(truth, equal, range(52))
    assert [c for c, p in found.per_class.items() if p == 0.0] == [0, 1]


def test_average_precision_by_hand():
    right = np.array([True, False, False, True])
    scores = np.array([0.4, 0.3, 0.2, 0.1])
    assert average_precision(scores, right, 2) == 0.5 * 1.0 + 0.5 * 0.5
    assert average_precision(scores, right, 4) == 0.25 * 1.0 + 0.25 * 0.5
    assert average_precision(scores[::-1], right[::-1], 2) == average_precision(scores, right, 2)
    assert math.isnan(average_precision(scores, right, 0))
    assert average_precision(scores[:0], right[:0], 3) == 0.0


@pytest.mark.parametrize("number", range(14))
def test_equals_the_official_evaluation(number):
    content = json.loads(GOLDEN.read_text())
    assert len(content["cases"]) == 14
    case = content["cases"][number]
    truth, detections = ([line.split(",") for line in case[key]] for key in ("truth", "detections"))
    excluded = {(video, float(time)) for video, time in (line.split(",") for line in case["excluded"])}
    found = frame_map(_listed(truth), _listed(detections), [i - 1 for i in case["scored"]], excluded=excluded)
    expected = {key: math.nan if value is None else value for key, value in case["official"].items()}
    ours = {"mean": found.mean, **{str(c + 1): p for c, p in found.per_class.items()}}
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


def _listed(rows):
    return LabelledBoxes.of(
        (r[0], float(r[1]), [float(v) for v in r[2:6]], int(r[6]) - 1, float(r[7]) if len(r) > 7 else 1.0)
        for r in rows
    )


@pytest.mark.parametrize("tens", range(40))
def test_equals_a_plain_loop(tens):
    for seed in range(10 * tens, 10 * tens + 10):
        _compare(seed)


def _compare(seed):
    rng = np.random.default_rng(seed)
    coarse = seed % 3  # 0: all scores differ; 1: few; 2: two scores and boxes on a grid
    truth, found = _random_case(rng, coarse)
    scored = sorted(rng.choice(6, size=int(rng.integers(1, 7)), replace=False).tolist())
    excluded = {("a", t) for t in range(5) if rng.random() < 0.15}
    limit = (None, 50, 7, 2)[seed % 4]
    expected = _plainly(truth, found, scored, excluded, limit)
    measured = frame_map(
        LabelledBoxes.of(truth), LabelledBoxes.of(found), scored, excluded=excluded, per_frame=limit
    )
    assert dict(measured.per_class) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    known = [p for p in expected.values() if not math.isnan(p)]
    assert measured.mean == pytest.approx(sum(known) / len(known) if known else math.nan, nan_ok=True)


def _random_case(rng, coarse):
    def box():
        x1, x2 = sorted(rng.random(2))
        y1, y2 = sorted(rng.random(2))
        return tuple(round(float(v), 1 if coarse == 2 else 3) for v in (x1, y1, x2, y2))

    frames = [(video, t) for video in ("a", "b") for t in range(int(rng.integers(1, 6)))]
    truth, found = [], []
    for frame in frames:
        actors = [box() for _ in range(rng.integers(0, 4))]
        truth += [(*frame, b, int(c), 1.0) for b in actors for c in rng.integers(0, 6, size=2)]
        for _ in range(rng.integers(0, 12)):
            b = actors[rng.integers(len(actors))] if actors and rng.random() < 0.7 else box()
            score = float(rng.random() if coarse == 0 else rng.integers(1, 6 if coarse == 1 else 3) / 8)
            found.append((*frame, b, int(rng.integers(0, 6)), score))
    return [truth[i] for i in rng.permutation(len(truth))], [found[i] for i in rng.permutation(len(found))]


def _plainly(truth, found, scored, excluded, limit):
    """The rules as the head of frame_map.py tells them, a box at a time."""
    judged = {c: [] for c in scored}
    for frame, rows in _frames(found, scored).items():
        if frame in excluded:
            continue
        # The heap of equal ground truth: rows enter as (class, y1, x1, y2, x2).
        real = _heaped([(1.0, *row[1:]) for row in _frames(truth, scored).get(frame, [])], None)
        taken = set()
        for score, c, y1, x1, y2, x2 in _heaped(rows, limit):
            if x2 <= x1 or y2 <= y1:
                continue
            shares = [
                _overlap((x1, y1, x2, y2), (r[3], r[2], r[5], r[4])) if r[1] == c else -1.0 for r in real
            ]
            best = max(range(len(real)), key=lambda i: (shares[i], -i), default=None)
            right = best is not None and shares[best] >= 0.5 and best not in taken
            if right:
                taken.add(best)
            judged[c].append((score, right))
    return {
        c: _area(judged[c], sum(row[3] == c and row[:2] not in excluded for row in truth)) for c in scored
    }


def _frames(rows, scored):
    frames = {}
    for video, time, (x1, y1, x2, y2), c, score in rows:
        if c in scored:
            frames.setdefault((video, time), []).append((score, c, y1, x1, y2, x2))
    return frames


def _heaped(entries, limit):
    heap = []
    for entry in entries:
        if limit is None or len(heap) < limit:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)
    return sorted(heap, key=lambda entry: -entry[0])


def _overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[3] - c[1]) * (c[2] - c[0]) for c in (a, b)]
    return height * width / (areas[0] + areas[1] - height * width)


def _area(judged, truths):
    if not truths:
        return math.nan
    ordered = [right for _, right in sorted(judged, key=lambda pair: pair[0])][::-1]
    precisions = [sum(ordered[: i + 1]) / (i + 1) for i in range(len(ordered))]
    return sum(max(precisions[i:]) for i, right in enumerate(ordered) if right) / truths


def test_a_file_of_detections_comes_back_as_it_was(tmp_path):
    found = LabelledBoxes.of(
        [("b", 902, BOX, 79, 1 / 3), ('a, "x"', 1.5, ELSEWHERE, 0, 0.25), ("b", 902, BOX, 3, 1e-9)]
    )
    write_detections(found, tmp_path / "found.csv")
    again = read_detections(tmp_path / "found.csv")
    assert again.frames == [("b", 902.0), ('a, "x"', 1.5)]
    for key in ("frame", "boxes", "classes", "scores"):
        assert np.array_equal(getattr(again, key), getattr(found, key)), key
    assert (tmp_path / "found.csv").read_text().splitlines()[0].startswith("b,0902,0.2,0.2,0.6,0.6,80,0.333")


def test_a_file_from_a_spreadsheet(tmp_path):
    (tmp_path / "found.csv").write_bytes("\ufeffa,0902,0,0,1,1,3,0.5\r\na,0902,0,0,1,1,4,0.5\r\n".encode())
    assert read_detections(tmp_path / "found.csv").frames == [("a", 902.0)]


@pytest.mark.parametrize(
    "line",
    ["a,902,0,0,1,1,3", "a,902,0,0,1,1,0,0.5", "a,902,0,0,1,nan,3,0.5", "a,902,0,0,x,1,3,0.5", "video"],
)
def test_a_row_that_is_no_detection_is_named(line, tmp_path):
    (tmp_path / "found.csv").write_text(f"a,902,0,0,1,1,3,0.5\n{line}\n")
    with pytest.raises(ValueError, match=r"found\.csv, line 2: must read video,timestamp"):
        read_detections(tmp_path / "found.csv")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scored": []}, "scored: no class"),
        ({"scored": [0, 0]}, "scored: must be different"),
        ({"scored": [-1]}, "scored: must be different"),
        ({"scored": [0], "iou": 0.0}, "iou must be"),
        ({"scored": [0], "per_frame": 0}, "per_frame must be"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        frame_map(boxes((1, BOX, 0)), boxes(), **options)


def test_boxes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="truth: holds a box that ends before it begins"):
        frame_map(boxes((1, (0.5, 0.0, 0.2, 1.0), 0)), boxes(), [0])
    with pytest.raises(ValueError, match="scores: holds a number that is not finite"):
        boxes((1, BOX, 0, math.nan))
    with pytest.raises(ValueError, match="classes: holds an index below 0"):
        boxes((1, BOX, -1))
    with pytest.raises(ValueError, match=r"boxes: must be \(1, 4\)"):
        LabelledBoxes([("a", 1.0)], np.zeros(1, int), np.zeros((1, 3)), np.zeros(1, int), np.ones(1))
    with pytest.raises(ValueError, match="frames: holds a key frame twice"):
        LabelledBoxes([("a", 1.0)] * 2, np.zeros(1, int), np.zeros((1, 4)), np.zeros(1, int), np.ones(1))
