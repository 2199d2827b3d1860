"""Every preset is a file that makes a mapping, and reads a sample of what it is for."""

from importlib.resources import files
from pathlib import Path

import pytest

from app.models import FeedFormat
from app.schemas.feed_mappings import FeedPreset, MappingWrite
from app.schemas.feeds import FeedTrial
from app.services.sync.dry_run import read_sample
from app.services.sync.offers import Defaults
from app.services.sync.presets import list_presets, load_preset, resolve_mapping

URL = "https://shop.example/feed"

SAMPLES = Path(__file__).parents[1] / "data/feeds/presets"
# What the only offer of each sample is: id, title, URL, price, currency, available.
OFFERS: dict[FeedPreset, tuple[str, str, str, int, str, bool]] = {
    FeedPreset.SHOPIFY: ("mug", "Mug", "https://shop.example/products/mug", 1250, "USD", True),
    FeedPreset.GOOGLE_MERCHANT: ("1", "Mug", "https://x.example/1", 1250, "EUR", False),
    FeedPreset.GOOGLE_MERCHANT_ATOM: ("1", "Mug", "https://x.example/1", 900, "EUR", True),
    FeedPreset.GOOGLE_MERCHANT_TEXT: ("g1", "Mug", "https://x.example/1", 1250, "EUR", True),
    FeedPreset.AWIN: ("m-1", "Mug", "https://www.awin1.com/pclick.php?p=1", 1250, "GBP", True),
    FeedPreset.SHAREASALE: ("1", '5" Mug', "https://shareasale.com/m-pr.cfm?x=1", 1250, "USD", True),
    FeedPreset.ADMITAD: ("1", "Mug", "https://ad.admitad.com/g/1", 1250, "RUB", True),
    FeedPreset.IMPACT: ("1", "Mug", "https://x.example/1", 1250, "USD", False),
    FeedPreset.PARTNERIZE: ("1", "Mug", "https://x.example/1", 1250, "GBP", True),
    FeedPreset.CJ: ("1", "Mug", "https://x.example/1", 1250, "USD", False),
    FeedPreset.RAKUTEN: ("1", "Mug", "https://x.example/1", 1250, "USD", True),
    FeedPreset.RAKUTEN_DELTA: ("1", "Mug", "https://x.example/1", 1250, "USD", True),
    FeedPreset.DIRECT_JSON: ("1", "Mug", "https://x.example/1", 1250, "PKR", False),
    FeedPreset.DIRECT_NDJSON: ("1", "Mug", "https://x.example/1", 1250, "PKR", True),
}


def attempt(preset: FeedPreset) -> FeedTrial:
    [sample] = [file for file in SAMPLES.iterdir() if file.stem == preset.value]
    format_, mapping = resolve_mapping(MappingWrite(preset=preset), None)
    defaults = Defaults("USD", "https://shop.example/")
    return read_sample(sample.read_bytes(), format_, mapping, defaults=defaults, url=URL)


def test_there_is_one_file_for_each_name() -> None:
    folder = files("app") / "presets" / "feeds"
    assert {file.name for file in folder.iterdir()} == {f"{name.value}.toml" for name in FeedPreset}
    assert [preset.name for preset in list_presets()] == sorted(FeedPreset)


@pytest.mark.parametrize("preset", FeedPreset)
def test_a_sample_in_the_documented_form_is_read(preset: FeedPreset) -> None:
    trial = attempt(preset)
    # Where the first page without items is the end, there is always another to ask for.
    following = f"{URL}?page-number=2" if preset is FeedPreset.CJ else None
    assert (trial.error, trial.rejected_samples, trial.next_page) == (None, [], following)
    [offer] = trial.offers
    assert (
        offer.external_id, offer.title, offer.url, offer.price.amount_minor, offer.price.currency, offer.available,
    ) == OFFERS[preset]  # fmt: skip


def test_rakuten_samples_have_the_documented_columns() -> None:
    for preset, columns in ((FeedPreset.RAKUTEN, 38), (FeedPreset.RAKUTEN_DELTA, 39)):
        assert len(load_preset(preset).mapping["columns"]) == columns
        assert load_preset(preset).format is FeedFormat.CSV
