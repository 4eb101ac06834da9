"""The memory against an independent float64 reference, and its promise of constant bytes."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from stremn_ros.errors import CapacityError, InputError, ModelError, UnknownObjectError
from stremn_ros.memory import (
    NEW,
    RULES,
    FusionCell,
    GrowingMemory,
    PairScorer,
    SlotMemory,
    align,
    mutual_similarity,
    slot_similarity,
)
from stremn_ros.memory.similarity import change
from stremn_ros.network import aggregate_logits, kept_shares, space_time_read

C, H, W, CK, CV = 6, 3, 4, 5, 7


# the tensors are so small that threads only wait for one another
pytestmark = pytest.mark.usefixtures("one_thread")


def rand(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def test_similarity_is_eq_1_and_2() -> None:
    rng = np.random.default_rng(0)
    a, b = rand(rng, 2, 12, CK), rand(rng, 2, 9, CK)
    ours = slot_similarity(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    for n in range(2):
        assert ours[n] == pytest.approx(reference.similarity(a[n], b[n]), abs=1e-12)
    assert ours[0] != pytest.approx(reference.similarity(b[0], a[0]), abs=1e-6), "not symmetric"


def test_similarity_finds_a_moved_object_and_a_part() -> None:
    rng = np.random.default_rng(1)
    a = torch.from_numpy(rand(rng, 12, CK))
    assert slot_similarity(a, a[torch.randperm(12)]).item() == pytest.approx(1.0)
    assert slot_similarity(a[:3], a).item() == pytest.approx(1.0)
    assert slot_similarity(a, a[:3]).item() < 0.99


def test_a_change_is_what_eq_1_leaves_of_the_cells_of_the_object() -> None:
    rng = np.random.default_rng(11)
    frame, keys = rand(rng, 12, CK), rand(rng, 3, 20, CK)
    shares = rng.uniform(0.0, 1.0, (3, 12))
    shares[1] *= 0.4  # a small object: no cell is half its own
    shares[2] = 0.0
    ours = change(*(torch.from_numpy(each) for each in (frame, keys, shares))).numpy()
    counted = [shares[0] >= 0.5, shares[1] == shares[1].max(), np.zeros(12, bool)]
    for n, cells in enumerate(counted):
        expected = 1.0 - reference.similarity(frame[cells], keys[n]) if cells.any() else 1.0
        assert ours[n] == pytest.approx(expected, abs=1e-9)


def test_align_is_eq_3() -> None:
    rng = np.random.default_rng(2)
    a, b = rand(rng, 3, 12, C), rand(rng, 3, 12, C)
    ours = align(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    for n in range(3):
        np.testing.assert_allclose(ours[n], reference.fam(a[n], b[n]), atol=1e-12)


@pytest.mark.parametrize("filtered", [True, False])
def test_fusion_cell_is_eq_4_to_8(filtered: bool) -> None:
    rng = np.random.default_rng(3)
    cell = FusionCell(C, filtered=filtered).double()
    parts = {"f": cell.filter_gate, "h": cell.update_gate, "g": cell.candidate}
    weights = {
        name: (conv.weight.detach().numpy(), conv.bias.detach().numpy())
        for name, conv in parts.items()
    }
    x_i, x_j = rand(rng, 2, C, H, W), rand(rng, 2, C, H, W)
    ours = cell(torch.from_numpy(x_i), torch.from_numpy(x_j)).detach().numpy()
    for n in range(2):
        expected = reference.fusion(weights, x_i[n], x_j[n], filtered)
        np.testing.assert_allclose(ours[n], expected, atol=1e-10)


def test_fusion_begins_near_keeping_j() -> None:
    torch.manual_seed(0)
    cell = FusionCell(C)
    x_i, x_j = torch.randn(2, 1, C, H, W)
    assert (cell(x_i, x_j) - x_j).abs().mean() < 0.25 * x_j.abs().mean()


@pytest.mark.parametrize("nearest", [0, 1, 5, 36, 50])
@pytest.mark.parametrize("affinity", ["dot", "l2"])
def test_read_is_eq_10(affinity: str, nearest: int) -> None:
    """Of all cells, or of the nearest ones alone."""
    rng = np.random.default_rng(4)
    query, keys, values = rand(rng, 2, 12, CK), rand(rng, 2, 36, CK), rand(rng, 2, 36, CV)
    given = map(torch.from_numpy, (query, keys, values))
    ours = space_time_read(*given, affinity=affinity, nearest=nearest)
    for n in range(2):
        expected = reference.read(query[n], keys[n], values[n], affinity, nearest)
        np.testing.assert_allclose(ours[n].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("nearest", [0, 7, 30])
def test_read_ignores_masked_cells(nearest: int) -> None:
    rng = np.random.default_rng(5)
    query, keys, values = (
        torch.from_numpy(rand(rng, 1, n, c)) for n, c in ((12, CK), (36, CK), (36, CV))
    )
    mask = torch.zeros(1, 1, 36, dtype=torch.float64)
    mask[..., 24:] = -torch.inf
    masked = space_time_read(query, keys, values, mask, "l2", nearest)
    short = space_time_read(query, keys[:, :24], values[:, :24], None, "l2", nearest)
    torch.testing.assert_close(masked, short)


@pytest.mark.parametrize("objects", [1, 2, 5])
def test_aggregation_is_stms(objects: int) -> None:
    rng = np.random.default_rng(6)
    logits = rand(rng, objects, H, W) * 3
    ours = aggregate_logits(torch.from_numpy(logits)).softmax(dim=0).numpy()
    np.testing.assert_allclose(ours, reference.aggregate(reference.sigmoid(logits)), atol=1e-9)


def test_aggregation_survives_extreme_logits() -> None:
    logits = torch.tensor([[-80.0, 80.0, 0.0], [-80.0, 80.0, -80.0]]).view(2, 1, 3)
    result = aggregate_logits(logits).softmax(dim=0)
    assert torch.isfinite(result).all()
    assert result[0, 0, 0] > 0.99
    assert result[0, 0, 1] < 0.01
    alone = aggregate_logits(logits[:1]).softmax(dim=0)
    torch.testing.assert_close(alone[1], torch.tensor([[0.0, 1.0, 0.5]]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("objects", [1, 2, 5])
def test_the_share_that_others_leave_of_a_mask(objects: int) -> None:
    rng = np.random.default_rng(8)
    logits = rand(rng, objects, H, W) * 3
    logits[-1] = -9.0  # one without a mask
    aggregated = aggregate_logits(torch.from_numpy(logits))
    winner = reference.aggregate(reference.sigmoid(logits)).argmax(axis=0)
    for n, share in enumerate(kept_shares(torch.from_numpy(logits), aggregated).tolist()):
        alone = logits[n] >= 0
        expected = (winner[alone] == n + 1).mean() if objects > 1 and alone.any() else 1.0
        assert share == pytest.approx(expected)


def make_bank(
    slots: int, objects: int = 3, rule: str = "least_similar", **options: object
) -> SlotMemory:
    torch.manual_seed(7)
    fusion = FusionCell(C).double()
    value = torch.nn.Conv2d(C, CV, 1).double()
    scorer = PairScorer(C).double()

    def fuse(x_i: torch.Tensor, x_j: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return fusion(x_i, x_j)

    def project(x: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return key, value(x)

    def score(x: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return scorer(x, similarity)

    options = {"score": score, **options}
    return (GrowingMemory if RULES[rule].grows else SlotMemory)(
        objects,
        slots,
        (C, H, W),
        CK,
        CV,
        fuse=fuse,
        project=project,
        rule=rule,
        dtype=torch.float64,
        **options,
    )


def stored(bank: SlotMemory, object_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Templates [n, C, h, w] and keys [n, HW, Ck] of an object, oldest first."""
    row, order = bank.rows[object_id], bank.order(object_id)
    return bank.templates[row, order].numpy(), bank.keys[row, order].numpy()


FORMS = [
    (rule, absorb)
    for rule in sorted(RULES)
    for absorb in ((False, True) if RULES[rule].absorb else (False,))
    if not RULES[rule].grows
]


@pytest.mark.parametrize(("rule", "absorb"), FORMS)
@pytest.mark.parametrize("slots", [2, 3, 5, 16])
def test_bank_follows_the_update_process(slots: int, rule: str, absorb: bool) -> None:
    """Three objects that begin at different times equal three lists kept by the reference."""
    rng = np.random.default_rng(slots)
    bank = make_bank(slots, rule=rule, input_to_memory=absorb)

    def score(templates: np.ndarray, table: np.ndarray) -> np.ndarray:
        return bank._score(torch.from_numpy(templates)[None], torch.from_numpy(table)[None])[0]

    def fuse(x_i: np.ndarray, x_j: np.ndarray) -> np.ndarray:
        pair = torch.from_numpy(x_i)[None], torch.from_numpy(x_j)[None]
        return bank._fuse(*pair)[0].numpy()

    lists: dict[int, reference.Bank] = {}
    for frame in range(slots + 12):  # 11 updates after it is full
        for object_id, start in ((9, 0), (4, 2), (7, 5)):
            if frame == start:
                template, key = rand(rng, C, H, W), rand(rng, CK, H, W)
                bank.seed(object_id, torch.from_numpy(template), torch.from_numpy(key))
                lists[object_id] = reference.Bank(slots, rule, fuse, score, absorb)
                lists[object_id].remember(template, reference.cells(key))
        ids = bank.ids
        templates, key = rand(rng, len(ids), C, H, W), rand(rng, CK, H, W)
        bank.remember(
            ids, torch.from_numpy(templates), torch.from_numpy(key).expand(len(ids), -1, -1, -1)
        )
        for object_id, template in zip(ids, templates, strict=True):
            lists[object_id].remember(template, reference.cells(key))
        for object_id, expected in lists.items():
            templates_now, keys_now = stored(bank, object_id)
            assert len(templates_now) == len(expected.items) == bank.used(object_id)
            for n, (template, cells) in enumerate(expected.items):
                np.testing.assert_allclose(templates_now[n], template, atol=1e-9)
                np.testing.assert_allclose(keys_now[n], cells, atol=1e-12)


def test_seed_is_never_touched_and_bytes_never_change() -> None:
    rng = np.random.default_rng(8)
    bank = make_bank(4)
    seed = torch.from_numpy(rand(rng, C, H, W))
    bank.seed(1, seed, torch.from_numpy(rand(rng, CK, H, W)))
    before, addresses = (
        bank.nbytes,
        [t.data_ptr() for t in (bank.templates, bank.keys, bank.values)],
    )
    for _ in range(300):
        bank.remember(
            [1], torch.from_numpy(rand(rng, 1, C, H, W)), torch.from_numpy(rand(rng, 1, CK, H, W))
        )
    assert bank.nbytes == before
    assert addresses == [t.data_ptr() for t in (bank.templates, bank.keys, bank.values)]
    assert torch.equal(bank.templates[0, bank.order(1)[0]], seed)
    assert bank.used(1) == 4


def test_cached_similarity_equals_a_fresh_table() -> None:
    rng = np.random.default_rng(9)
    bank = make_bank(5)
    bank.seed(1, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
    for _ in range(20):
        bank.remember(
            [1], torch.from_numpy(rand(rng, 1, C, H, W)), torch.from_numpy(rand(rng, 1, CK, H, W))
        )
        row, slots = bank.rows[1], bank.order(1)[1:]
        keys = bank.keys[row, slots]
        fresh = slot_similarity(keys[:, None], keys[None]).numpy()
        np.testing.assert_allclose(bank.similarity[row][np.ix_(slots, slots)], fresh, atol=1e-5)


def test_removing_leaves_the_others_bit_for_bit() -> None:
    rng = np.random.default_rng(10)
    bank, alone = make_bank(3), make_bank(3)
    key = torch.from_numpy(rand(rng, CK, H, W))
    templates = torch.from_numpy(rand(rng, 3, C, H, W))
    for object_id in (1, 2, 3):
        bank.seed(object_id, templates[object_id - 1], key)
    alone.seed(3, templates[2], key)
    for frame in range(10):
        if frame == 4:
            bank.remove(1)
        ids = bank.ids
        news = {i: torch.from_numpy(rand(rng, C, H, W)) for i in (1, 2, 3)}
        key = torch.from_numpy(rand(rng, CK, H, W))
        bank.remember(ids, torch.stack([news[i] for i in ids]), key.expand(len(ids), -1, -1, -1))
        alone.remember([3], news[3][None], key[None])
    np.testing.assert_allclose(stored(bank, 3)[0], stored(alone, 3)[0], atol=1e-12)
    assert bank.ids == [3, 2]
    keys, values, mask = bank.contents()
    assert keys.shape == (2, 3 * H * W, CK)
    assert values.shape == (2, 3 * H * W, CV)
    assert mask is None


def test_contents_mask_covers_exactly_the_empty_slots() -> None:
    rng = np.random.default_rng(11)
    bank = make_bank(4)
    for object_id in (1, 2):
        bank.seed(object_id, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
    bank.remember(
        [2], torch.from_numpy(rand(rng, 1, C, H, W)), torch.from_numpy(rand(rng, 1, CK, H, W))
    )
    keys, _, mask = bank.contents()
    assert keys.shape[1] == 2 * H * W
    assert mask is not None
    assert (mask[0, 0] == 0).sum() == H * W
    assert (mask[1, 0] == 0).all()


def test_errors_name_the_remedy_and_change_nothing() -> None:
    rng = np.random.default_rng(13)
    bank = make_bank(3, objects=1)
    template, key = (torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK))
    bank.seed(1, template, key)
    with pytest.raises(CapacityError, match="max_objects"):
        bank.seed(2, template, key)
    with pytest.raises(UnknownObjectError, match=r"tracked are \[1\]"):
        bank.remove(5)
    with pytest.raises(UnknownObjectError):
        bank.remember([1, 5], template[None].repeat(2, 1, 1, 1), key[None].repeat(2, 1, 1, 1))
    assert bank.ids == [1]
    assert bank.used(1) == 1
    for slots in (1, 17):
        with pytest.raises(InputError, match=r"2\.\.16"):
            make_bank(slots)
    with pytest.raises(InputError, match="least_similar"):
        bank.rule = "best"
    assert bank.rule == "least_similar"


def test_both_similarities_come_of_one_table() -> None:
    rng = np.random.default_rng(14)
    a, b = rand(rng, 2, 1, 12, CK), rand(rng, 2, 3, 9, CK)
    forward, backward = mutual_similarity(torch.from_numpy(a), torch.from_numpy(b))
    for n in range(2):
        for k in range(3):
            assert forward[n, k] == pytest.approx(reference.similarity(a[n, 0], b[n, k]))
            assert backward[n, k] == pytest.approx(reference.similarity(b[n, k], a[n, 0]))


def take(bank: SlotMemory, rng: np.random.Generator, ids: list[int]) -> np.ndarray:
    """One update of these objects by chance; returns the templates that went in."""
    templates = rand(rng, len(ids), C, H, W)
    key = torch.from_numpy(rand(rng, CK, H, W)).expand(len(ids), -1, -1, -1)
    bank.remember(ids, torch.from_numpy(templates), key)
    return templates


def take_many(bank: SlotMemory, rng: np.random.Generator, ids: list[int], count: int) -> None:
    for _ in range(count):
        take(bank, rng, ids)


@pytest.mark.parametrize("rule", sorted(name for name in RULES if RULES[name].limit is None))
@pytest.mark.parametrize("count", [2, 3, 4, 15])
def test_a_rule_names_pairs_that_can_be_fused(rule: str, count: int) -> None:
    if RULES[rule].grows:
        return
    rng = np.random.default_rng(count)
    lengths = set()
    for _ in range(20):
        table = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        before = table.copy()
        pairs = RULES[rule].choose(table)
        lengths.add(len(pairs))
        gone = pairs[0][0]
        assert np.array_equal(table, before)
        assert all(i == gone and 0 <= j < count and j != gone for i, j in pairs)
        assert len({j for _, j in pairs}) == len(pairs)
        if RULES[rule].absorb is not None:
            assert 0 <= RULES[rule].absorb(table[0]) < count
    assert len(lengths) == 1, "equally many for every object"


@pytest.mark.parametrize(("rule", "absorb"), [*FORMS, ("linear", False)])
def test_whatever_happens_a_memory_keeps_its_promises(rule: str, absorb: bool) -> None:
    """Objects come, go and are remembered by chance; after each step everything still holds."""
    rng = np.random.default_rng(15)
    bank = make_bank(4, objects=3, rule=rule, input_to_memory=absorb)
    size, grew = bank.nbytes, False
    limit = 2 if RULES[rule].limit else 10_000 if RULES[rule].grows else 4

    def look(object_id: int) -> list[np.ndarray]:
        row, order = bank.rows[object_id], bank.order(object_id)
        parts = [bank.keys, bank.values] + ([] if bank.grows else [bank.templates])
        return [part[row, order].numpy() for part in parts]

    seeds: dict[int, np.ndarray] = {}
    learned: dict[int, list[np.ndarray]] = {}
    updates: dict[int, int] = {}
    for _ in range(150):
        chance = rng.random()
        if chance < 0.08 and len(seeds) < 3:
            object_id = int(rng.integers(1, 200))
            seeds[object_id] = rand(rng, C, H, W)
            updates[object_id], learned[object_id] = 0, []
            bank.seed(
                object_id,
                torch.from_numpy(seeds[object_id]),
                torch.from_numpy(rand(rng, CK, H, W)),
            )
        elif chance < 0.11 and seeds:
            object_id = int(rng.choice(list(seeds)))
            bank.remove(object_id)
            del seeds[object_id], updates[object_id], learned[object_id]
        elif chance < 0.25 and seeds:
            object_id = int(rng.choice(list(seeds)))
            new = rand(rng, C, H, W)
            bank.learn(object_id, torch.from_numpy(new), torch.from_numpy(rand(rng, CK, H, W)))
            learned[object_id].append(new)
            if bank.most_locked == 1:
                seeds[object_id], learned[object_id] = new, []
            learned[object_id] = learned[object_id][-(bank.most_locked - 1) or None :]
            updates[object_id] = bank.updates(object_id)
        elif seeds:
            ids = [i for i in bank.ids if rng.random() < 0.8]
            others = {i: look(i) for i in bank.ids if i not in ids}
            was = {i: bank.used(i) for i in ids}
            news = take(bank, rng, ids)
            for i, parts in others.items():
                assert all(np.array_equal(a, b) for a, b in zip(look(i), parts, strict=True))
            for i, new in zip(ids, news, strict=True):
                updates[i] += 1
                last = bank.last_update[i]
                assert last.number == updates[i] == bank.updates(i)
                if absorb and was[i] == limit:
                    assert last.slot is None
                    assert last.pairs[0][0] == NEW
                else:
                    assert last.slot == bank.order(i)[-1]
                    if not bank.grows:
                        assert np.array_equal(stored(bank, i)[0][-1], new), "the newest is intact"
        assert sorted(bank.ids) == sorted(seeds)
        for i, seed in seeds.items():
            order = bank.order(i)
            assert order[0] == 0
            assert sorted(order) == list(range(bank.used(i)))
            assert bank.used(i) <= min(limit, updates[i] + 1 + len(learned[i]))
            born = bank.born[bank.rows[i], order]
            assert (np.diff(born[bank.locked(i) - 1 :]) > 0).all(), "by age"
            if not bank.grows:
                given = stored(bank, i)[0][: bank.locked(i)]
                assert np.array_equal(given, np.stack([seed, *learned[i]])), "as they were given"
        keys, values, _ = bank.contents()
        assert torch.isfinite(keys).all()
        assert torch.isfinite(values).all()
        grew = grew or bank.nbytes != size
    assert grew == RULES[rule].grows


@pytest.mark.parametrize(("rule", "absorb"), FORMS)
def test_objects_that_learned_more_are_updated_as_if_alone(rule: str, absorb: bool) -> None:
    banks = [make_bank(5, rule=rule, input_to_memory=absorb) for _ in range(3)]
    together, alone = banks[0], {1: banks[1], 2: banks[2]}
    rng = np.random.default_rng(16)

    def some(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rand(rng, *shape))

    for step in range(14):
        templates, keys = some(2, C, H, W), some(2, CK, H, W)
        for n, object_id in enumerate((1, 2)):
            if step == 0:
                for bank in (together, alone[object_id]):
                    bank.seed(object_id, templates[n], keys[n])
            elif object_id == 2 and step in (3, 6, 9):
                for bank in (together, alone[2]):
                    bank.learn(2, templates[n], keys[n])
        if step:
            together.remember([1, 2], templates, keys)
            for n, object_id in enumerate((1, 2)):
                alone[object_id].remember([object_id], templates[n : n + 1], keys[n : n + 1])
    for object_id, bank in alone.items():
        assert together.order(object_id) == bank.order(object_id)
        for one, other in zip(stored(together, object_id), stored(bank, object_id)):
            assert one == pytest.approx(other, abs=1e-12)
    assert together.locked(1) == 1
    assert together.locked(2) == together.most_locked


def test_what_is_learned_beyond_the_room_replaces_the_oldest_after_the_seed() -> None:
    rng = np.random.default_rng(17)
    bank = make_bank(5)
    given = [rand(rng, C, H, W) for _ in range(6)]
    key = torch.from_numpy(rand(rng, CK, H, W))
    size = bank.nbytes
    bank.seed(7, torch.from_numpy(given[0]), key)
    for template in given[1:]:
        bank.learn(7, torch.from_numpy(template), key)
        take(bank, rng, [7])
    assert bank.locked(7) == bank.most_locked == 3
    assert np.array_equal(stored(bank, 7)[0][:3], np.stack([given[0], *given[-2:]]))
    assert bank.used(7) == 5
    assert bank.nbytes == size
    bank.rule = "first_and_previous"
    assert (bank.locked(7), bank.used(7)) == (1, 2)
    take(bank, rng, [7])
    with pytest.raises(UnknownObjectError, match="object 8 is not tracked"):
        bank.learn(8, torch.from_numpy(given[0]), key)


@pytest.mark.parametrize("slots", [2, 3, 6])
def test_first_and_previous_is_two_slots_to_the_last_bit(slots: int) -> None:
    two, other = make_bank(2), make_bank(slots, rule="first_and_previous")
    for bank in (two, other):
        rng = np.random.default_rng(16)
        for object_id in (3, 1):
            bank.seed(object_id, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
        for step in range(12):
            take(bank, rng, [3, 1] if step % 3 else [1])
    for ours, theirs in zip(two.contents(), other.contents(), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def test_the_linear_memory_grows_by_a_template_every_so_many_updates() -> None:
    rng = np.random.default_rng(17)
    bank = make_bank(5, rule="linear", keep_every=5, max_templates=40)
    bank.seed(1, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
    bank.seed(2, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
    sizes = [bank.nbytes]
    kept = [bank.keys[0, 0].clone()]
    for number in range(1, 101):
        take(bank, rng, [1, 2] if number <= 50 else [1])
        sizes.append(bank.nbytes)
        assert bank.used(1) == 1 + -(-number // 5)
        if number % 5 == 0:
            kept.append(bank.keys[0, bank.order(1)[-1]].clone())
    for n, key in enumerate(kept):
        assert torch.equal(bank.keys[0, n], key)
    assert bank.used(2) == 11
    assert len(set(sizes)) == 2, "in chunks: 21 templates are two"
    keys, _, mask = bank.contents()
    assert keys.shape[1] == 21 * H * W
    assert (mask[1, 0] == 0).sum() == 11 * H * W
    bank.repeat(38)
    assert bank.used(1) == bank.used(2) == 38
    assert torch.equal(bank.keys[0, 21], bank.keys[0, 0])
    with pytest.raises(CapacityError, match=r"holds 40 templates.*least_similar never fills"):
        take_many(bank, rng, [1, 2], 20)
    assert bank.used(1) == 40
    bank.remove(1)
    bank.seed(3, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
    assert (bank.used(2), bank.used(3)) == (40, 1)
    for refused in (bank.state, lambda: bank.restore([], {}), lambda: bank.adopt(bank)):
        with pytest.raises(InputError, match="baseline"):
            refused()
    with pytest.raises(InputError, match="at least"):
        make_bank(5, rule="linear", keep_every=0)


def test_rules_change_between_frames_where_they_can() -> None:
    rng = np.random.default_rng(18)
    bank = make_bank(5)
    for object_id in (1, 2):
        bank.seed(object_id, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
    for _ in range(9):
        news = take(bank, rng, [1, 2])
    size = bank.nbytes
    bank.rule = "first_and_previous"
    assert bank.used(1) == bank.used(2) == 2
    assert np.array_equal(stored(bank, 1)[0][1], news[0])
    assert np.array_equal(stored(bank, 2)[0][1], news[1])
    take(bank, rng, [1, 2])
    bank.rule = "most_similar"
    for _ in range(9):
        take(bank, rng, [1, 2])
    assert bank.used(1) == 5
    assert bank.nbytes == size
    with pytest.raises(InputError, match="'linear' needs a memory that grows: load the model"):
        bank.rule = "linear"
    with pytest.raises(InputError, match="'oldest' needs a memory that is fixed"):
        make_bank(5, rule="linear").rule = "oldest"
    with pytest.raises(InputError, match=r"'learned' has no input_to_memory form; these have"):
        make_bank(5, rule="learned", input_to_memory=True)
    with pytest.raises(ModelError, match="needs a scorer"):
        make_bank(5, rule="learned", score=None)


def test_objects_with_the_same_keys_are_compared_once_and_others_each() -> None:
    rng = np.random.default_rng(23)
    compared: list[int] = []

    def compare(own: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        compared.append(len(own))
        return mutual_similarity(own, others)

    bank = make_bank(4, compare=compare)

    def frame(ids: list[int]) -> None:
        compared.clear()
        key = torch.from_numpy(rand(rng, CK, H, W))
        templates = torch.from_numpy(rand(rng, len(ids), C, H, W))
        bank.remember(ids, templates, key[None].expand(len(ids), -1, -1, -1))
        for object_id in bank.ids:
            row, slots = bank.rows[object_id], bank.order(object_id)
            keys = bank.keys[row, slots]
            fresh = slot_similarity(keys[:, None], keys[None]).numpy()
            unlocked = np.ix_(slots[1:], slots[1:])
            np.testing.assert_allclose(bank.similarity[row][unlocked], fresh[1:, 1:], atol=1e-6)

    first = torch.from_numpy(rand(rng, CK, H, W))
    for object_id in (1, 2, 3):
        key = first if object_id < 3 else torch.from_numpy(rand(rng, CK, H, W))
        bank.seed(object_id, torch.from_numpy(rand(rng, C, H, W)), key)
    for _ in range(6):
        frame([1, 2, 3])
        assert compared == [2]  # 1 and 2 were seeded in one frame, 3 in another
    frame([2, 3])  # 1 is hidden for a moment
    for _ in range(2):
        frame([1, 2, 3])
        assert compared == [3]


def test_keys_made_of_the_template_are_compared_anew_after_a_fusion() -> None:
    """With image keys a fused slot keeps key and similarities; these keys change, and theirs."""
    rng = np.random.default_rng(19)
    compared: list[int] = []
    head = torch.nn.Conv2d(C, CK, 1).double()

    def compare(own: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        compared.append(len(own))
        return mutual_similarity(own, others)

    for of_template, wanted in ((False, 1), (True, 2)):
        bank = make_bank(4, compare=compare)
        if of_template:
            value = bank._project
            bank._project = lambda x, key, value=value: (head(x).detach(), value(x, key)[1])
        bank.seed(1, *(torch.from_numpy(rand(rng, c, H, W)) for c in (C, CK)))
        for _ in range(10):
            compared.clear()
            take(bank, rng, [1])
        assert len(compared) == wanted
        slots = bank.order(1)[1:]
        keys = bank.keys[0, slots]
        fresh = slot_similarity(keys[:, None], keys[None]).numpy()
        np.testing.assert_allclose(bank.similarity[0][np.ix_(slots, slots)], fresh, atol=1e-5)
