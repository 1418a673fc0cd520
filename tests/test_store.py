"""The feature store: what is found, what leaves, what a hit costs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from segwise.store import FeatureStore, size_of


def makes(log, value=lambda i: np.full(4, i, dtype=np.float32)):
    def make(missing):
        log.append(list(missing))
        return [value(i) for i in missing]

    return make


def test_makes_what_is_missing_in_one_call_and_keeps_the_order():
    store, log = FeatureStore(), []
    first = store.get(["a", "b", "c"], makes(log))
    again = store.get(["c", "d", "a", "c"], makes(log))
    assert log == [[0, 1, 2], [1]]
    assert [int(v[0]) for v in first] == [0, 1, 2]
    assert [int(v[0]) for v in again] == [2, 1, 0, 2]
    assert (store.hits, store.misses) == (2, 4)


def test_a_hit_is_charged_what_making_cost(monkeypatch):
    clock = iter([10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr("segwise.store.time.perf_counter", lambda: next(clock))
    store = FeatureStore()
    store.get(["a", "b"], makes([]))  # 4 s, 2 s each
    assert (store.charged_s, store.spent_s) == (4.0, 4.0)
    store.get(["a"], makes([]))
    assert (store.charged_s, store.spent_s) == (6.0, 4.0)
    store.get(["a", "c"], makes([]))  # 2 s of old, 1 s of new
    assert (store.charged_s, store.spent_s) == (9.0, 5.0)


def test_the_least_recently_used_leaves_and_the_cap_holds():
    store, log = FeatureStore(cap_bytes=2 * 16), []
    store.get(["a", "b"], makes(log))
    store.get(["a"], makes(log))
    store.get(["c"], makes(log))  # b leaves
    assert (len(store), store.n_bytes) == (2, 32)
    store.get(["a", "c"], makes(log))
    store.get(["b"], makes(log))
    assert log == [[0, 1], [0], [0]]


def test_a_value_larger_than_the_cap_is_handed_out_and_not_kept():
    store, log = FeatureStore(cap_bytes=8), []
    assert store.get(["a"], makes(log))[0].shape == (4,)
    store.get(["a"], makes(log))
    assert len(log) == 2
    assert store.n_bytes == 0


def test_a_wrong_number_of_values_is_refused():
    with pytest.raises(ValueError, match="made 1 values, expected 2"):
        FeatureStore().get(["a", "b"], lambda missing: [np.zeros(1)])


def test_a_failing_maker_leaves_nothing_behind():
    store, log = FeatureStore(), []
    with pytest.raises(ZeroDivisionError):
        store.get(["a"], lambda missing: [1 // 0])
    store.get(["a"], makes(log))
    assert log == [[0]]


TREE = {
    "map": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "levels": [torch.ones(2), (np.arange(3, dtype=np.int16), None, 4, 0.5, True, "name")],
    7: torch.zeros(0, 3),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
}


def equal(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_disk_gives_back_every_kind_of_tree_and_its_cost(tmp_path, monkeypatch):
    clock = iter([0.0, 3.0])
    monkeypatch.setattr("segwise.store.time.perf_counter", lambda: next(clock))
    FeatureStore(folder=tmp_path / "features").get(["a"], lambda missing: [TREE])
    other = FeatureStore(folder=tmp_path / "features")
    (value,) = other.get(["a"], makes([]))
    assert equal(value, TREE)
    assert (other.charged_s, other.spent_s, other.hits) == (3.0, 0.0, 1)
    assert other.n_bytes == size_of(TREE) == 12 + 8 + 6 + 8


def test_a_damaged_file_is_made_anew(tmp_path):
    FeatureStore(folder=tmp_path).get(["a"], makes([]))
    (file,) = tmp_path.glob("*.npz")
    for damage in (b"", file.read_bytes()[:100], b"nonsense"):
        file.write_bytes(damage)
        log = []
        (value,) = FeatureStore(folder=tmp_path).get(["a"], makes(log))
        assert log == [[0]]
        assert value.shape == (4,)
    assert not list(tmp_path.glob("*.part"))


def test_flipped_bits_on_disk_are_noticed(tmp_path):
    FeatureStore(folder=tmp_path).get(["a"], makes([], lambda i: np.arange(1000.0)))
    (file,) = tmp_path.glob("*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    file.write_bytes(raw)
    log = []
    FeatureStore(folder=tmp_path).get(["a"], makes(log))
    assert log == [[0]]


def test_the_folder_keeps_its_cap(tmp_path):
    store = FeatureStore(folder=tmp_path, folder_cap_bytes=20_000)
    for i in range(10):
        store.get([str(i)], makes([], lambda i: np.zeros(1000)))
    files = list(tmp_path.glob("*.npz"))
    assert 0 < sum(f.stat().st_size for f in files) <= 20_000


def test_an_unwritable_folder_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store, log = FeatureStore(folder=tmp_path / "file" / "inside"), []
    store.get(["a"], makes(log))
    store.get(["a"], makes(log))
    assert log == [[0]]


def test_something_that_is_no_feature_is_refused(tmp_path):
    with pytest.raises(TypeError, match="object"):
        FeatureStore(folder=tmp_path).get(["a"], lambda missing: [object()])


def test_threads_share_a_store():
    store, wrong = FeatureStore(cap_bytes=64), []

    def work():
        for i in range(200):
            (value,) = store.get([str(i % 7)], lambda missing, i=i: [np.full(4, i % 7, dtype=np.float32)])
            if int(value[0]) != i % 7:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.n_bytes <= 64
    assert store.hits + store.misses == 800
