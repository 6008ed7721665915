"""The gallery shows images of every attack and class, the survivors nearest to breaking, and true facts."""

from collections import Counter

from unmask.ledger import ThreatEntry
from unmask.ledger.queries import broken_by
from unmask.report.gallery import BROKEN, SURVIVORS, gallery, gallery_beside
from unmask.report.pictures import perturbation, picture


def facts(card):
    return dict(card.facts)


def test_broken_images_are_spread_over_attacks_and_classes(run):
    found = gallery(run).broken
    assert len(found) == BROKEN
    assert Counter(facts(card)["broken by"] for card in found) == {"pgd-10": 5, "margin": 5, "square": 2}
    by_pgd = [card.title for card in found if facts(card)["broken by"] == "pgd-10"]
    assert {title.split(" → ")[0] for title in by_pgd} == {"zero", "one", "two"}


def test_images_that_were_wrong_from_the_start_are_not_shown(run):
    wrong = {str(i) for i in run.ids[broken_by(run) == "clean"]}
    assert wrong
    assert not wrong & {facts(card)["image"] for card in gallery(run).broken}


def test_survivors_are_those_of_the_largest_margin(run):
    found = gallery(run).survivors
    assert len(found) == SURVIVORS
    # The margin of a survivor is -1 - (id mod 7) / 10, and the images 1030 to 1039 survive.
    assert [facts(card)["image"] for card in found] == ["1036", "1030", "1037", "1031"]
    assert facts(found[0])["margin"] == "−1"  # noqa: RUF001
    assert all(card.title.endswith("not broken") for card in found)


def test_a_card_shows_the_recorded_images_and_facts(run):
    [card] = [card for card in gallery(run).broken if facts(card)["image"] == "1003"]
    ids, kept = run.adversarial()
    x, x_adv = run.inputs()[2][3], kept[ids.tolist().index(1003)]
    assert card.title == "zero → one"
    assert [picture_.caption for picture_ in card.pictures] == ["original", "adversarial", "perturbation"]
    assert [picture_.source for picture_ in card.pictures] == [picture(x), picture(x_adv), perturbation(x_adv - x)]
    assert facts(card) | {"margin": "+1.2", "distance": "0.2"} == facts(card)
    assert card.pictures[1].text == "Image 1003 after the attack, predicted as one"


def test_pictures_are_drawn_in_the_pixel_bounds_of_the_threat(story):
    threat = ThreatEntry(norm="linf", eps="0.2", low=-1.0, high=1.0)
    run = story(changes={"threat": threat}).play()
    [card] = [card for card in gallery(run).broken if facts(card)["image"] == "1003"]
    assert card.pictures[0].source == picture(run.inputs()[2][3], -1.0, 1.0)


def test_a_class_without_a_name_is_numbered(story):
    make = story()
    run = story(changes={"data": make.data(classes=["zero"])}).play()
    titles = {card.title for card in gallery(run).broken}
    assert "zero → class 1" in titles
    assert "class 1 → class 2" in titles


def test_a_run_of_the_clean_round_alone(story):
    run = story(plan=story().plan[:1]).play()
    found = gallery(run)
    assert found.broken == ()
    assert [len(card.pictures) for card in found.survivors] == [1] * SURVIVORS


def test_nothing_to_show(story):
    found = gallery(story(plan=story().plan[:1], breaks=(1.0,)).play())
    assert (found.broken, found.survivors) == ((), ())


def test_images_in_error_are_neither_broken_nor_survivors(story):
    shown = gallery(story(errors=frozenset(range(1000, 1040))).play())
    assert (shown.broken, shown.survivors) == ((), ())


def test_colour_images_explain_their_grey(story):
    assert "Mid-grey" in gallery(story(n=6, shape=(3, 4, 4)).play()).scale
    assert "white means no change" in gallery(story(n=6).play()).scale


def test_the_trail_is_the_margin_after_each_attack(run):
    [card] = [card for card in gallery(run).broken if facts(card)["image"] == "1003"]
    # The clean round leaves -1 - (1003 mod 7) / 10, then pgd-10 breaks it with 1.25.
    assert card.trail.text == "Margin after each attack: clean −1.2, pgd-10 +1.2"  # noqa: RUF001
    (left, low), (right, high) = (map(float, point.split(",")) for point in card.trail.points.split())
    assert (left, right) == (2, 98)
    assert high < card.trail.zero < low


def test_a_card_can_be_asked_for(run):
    found = gallery(run)
    assert {card.outcome for card in found.broken} == {"broken"}
    assert {card.outcome for card in found.survivors} == {"survived"}
    assert found.labels == ["one", "two", "zero"]
    assert set(found.attacks) >= {"pgd-10", "margin", "square"}


def test_the_gallery_beside_shows_every_image_that_was_attacked(run):
    found = gallery_beside(run)
    assert (len(found.broken), len(found.survivors)) == (28, 10)


def test_there_is_no_gallery_beside_where_it_would_show_no_more(story):
    assert gallery_beside(story(n=6).play()) is None


def test_large_images_are_fewer_in_the_gallery_beside(story):
    # 3 pictures of 3 x 256 x 256 bytes each, of each kind: 12 MB hold 10 of each, fewer than the page shows.
    found = gallery_beside(story(n=40, shape=(3, 256, 256), breaks=(0.0, 0.5, 0.0, 0.0, 0.0, 0.0)).play())
    assert (len(found.broken), len(found.survivors)) == (12, 12)
