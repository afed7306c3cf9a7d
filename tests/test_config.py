"""Settings: presets, files, overrides, and what is said of bad ones."""

import json
import re
from importlib import resources

import pytest
from pydantic import ValidationError

from raypurify.config import SECTIONS, DataSettings, RobustTrainingSettings, Settings, load_settings, presets
from raypurify.errors import ConfigError
from raypurify.regions import PatchSettings
from raypurify.supervision import SupervisionSettings


def test_every_preset_loads_under_its_own_name():
    names = (
        "cifar10 cifar10-front-end cifar10-front-end-paper cifar10-region cifar10-small cifar10-stl "
        "imagenet10 imagenet10-front-end imagenet10-region imagenet10-stl imagenet10-wide paper "
        "tiny tiny-front-end tiny-region tiny-stl"
    )
    assert presets() == names.split()
    assert [load_settings(name).name for name in presets()] == presets()


def test_paper_preset_holds_the_papers_settings():
    paper = load_settings("paper")
    assert (paper.network.depth, paper.network.width) == (32, 10)
    assert (paper.robust.attack.steps, paper.robust.attack.eps, paper.robust.attack.norm) == (10, 0.3, "l2")
    assert paper.clusters.form == "pinv"
    assert paper.network.dropout > 0
    assert (paper.robust_first.init, paper.robust_first.loss, paper.robust_first.alpha) == ("random", "trades", 0)
    assert (paper.robust.init, paper.robust.loss) == ("first", "ce")
    assert {"alpha", "init"} <= paper.robust.model_fields_set
    # RSFP has no numbers for these: they are STL's.
    assert (paper.dictionaries.atoms, paper.dictionaries.size, paper.csc.lmbda) == (64, 8, 0.2)


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("csc: {lmbda: 0.3}\nseed: 5\n")
    settings = load_settings(path=path, overrides=("csc.lmbda=0.1", "data.limit=null", "robust.attack.norm=linf"))
    assert (settings.csc.lmbda, settings.seed, settings.data.limit, settings.robust.attack.norm) == (
        0.1,
        5,
        None,
        "linf",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"preset": "huge"},
            "unknown preset 'huge': choose one of cifar10, cifar10-front-end, cifar10-front-end-paper, cifar10-region,",
        ),
        ({"preset": "tiny", "path": "x.yaml"}, "not both"),
        ({"path": "/no/such.yaml"}, "/no/such.yaml"),
        ({"preset": "tiny", "overrides": ("csc.lambda=1",)}, "csc.lambda"),
        ({"preset": "tiny", "overrides": ("csc.lmbda=-1",)}, "csc.lmbda"),
        ({"preset": "tiny", "overrides": ("csc.lmbda",)}, "key.subkey=value"),
        (
            {"preset": "tiny", "overrides": ("csc.lambda=1",)},
            "csc.lambda: there is no such setting, perhaps csc.lmbda is meant",
        ),
        ({"preset": "tiny", "overrides": ("robust.attack.steps=10000000",)}, "robust.attack.steps"),
        ({"preset": "tiny", "overrides": ("clusters.k_min=5",)}, "k_min is 5, above k_max, 4"),
        *(
            ({"preset": "tiny", "overrides": (override,)}, message)
            for override, message in (
                ("csc.lmbda=.inf", "csc.lmbda: Input should be a finite number"),
                ("baseline.lr=1e400", "baseline.lr: Input should be a finite number"),
                ("calibration.attack.eps=.nan", "calibration.attack.eps"),
                ("csc.lmbda=yes", "csc.lmbda: true is a truth value; give a number"),
                ("seed=true", "seed: true is a truth value; give a number"),
                ("seed=-1", "seed"),
                (f"seed={2**70}", "seed: a number of 22 digits; give 9223372036854775807 at most"),
                ("network.depth=17", "network.depth: give 6n + 4"),
                ("csc.lmbda=" + "[" * 5000, "the value is not valid YAML"),
                ("seed=" + "9" * 5000, "the value is not valid YAML"),
                ("name=2001-99-99", "the value is not valid YAML"),
            )
        ),
        (
            {"preset": "tiny", "overrides": ("method=stl",)},
            "preset tiny is of method rsfp: those of stl are cifar10-stl, imagenet10-stl, tiny-stl; choose one",
        ),
        (
            {"preset": "tiny", "overrides": ("strata.count=3",)},
            "strata: of method stl, but method is rsfp: remove it, or set method to stl",
        ),
        (
            {"preset": "tiny", "overrides": ("method=sfp",)},
            "method: Input should be 'rsfp', 'stl', 'region_sparse' or 'front_end'",
        ),
        ({"preset": "tiny-stl", "overrides": ("data.image_size=20",)}, "give a multiple of 8"),
        ({"preset": "tiny-stl", "overrides": ("strata.keep=4",)}, "only 4 features are kept: raise keep"),
        ({"preset": "tiny", "overrides": ("network.depth=1000000",)}, "network.depth: Input should be less than or eq"),
        ({"preset": "tiny", "overrides": ("name.x=1",)}, "'name' is a value"),
        ({"preset": "tiny", "overrides": ("csc.lmbda=[",)}, "not valid YAML"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ConfigError) as error:
        load_settings(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("part", [DataSettings, PatchSettings, SupervisionSettings, RobustTrainingSettings])
def test_no_part_of_the_settings_takes_an_unknown_key_or_changes(part):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        part(nonsense=1)
    name = next(iter(part.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part(), name, getattr(part(), name))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"s\.yaml"):
        load_settings(path=path)


def test_the_augmentation_of_older_bundles_is_understood():
    assert load_settings(overrides=("baseline.augment=true",)).baseline.augment == "crop"
    assert load_settings(overrides=("baseline.augment=false",)).baseline.augment == "none"
    with pytest.raises(ConfigError, match=r"baseline\.augment"):
        load_settings(overrides=("baseline.augment=mirror",))


def test_a_first_robust_training_and_the_second_belong_together():
    assert load_settings("cifar10").robust.init == "first"
    for overrides, message in (
        (("robust.init=first",), "there is no robust_first"),
        (("robust_first.epochs=1",), "trained for nothing"),
        (("robust.init=first", "robust_first.init=first"), "cannot start from itself"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_settings("tiny", overrides=overrides)


def test_settings_of_another_method_are_refused_by_their_names(tmp_path):
    (tmp_path / "s.yaml").write_text("robust: {epochs: 3}\nnetwork: {width: 1}\n")
    told = "network, robust: of method rsfp, but method is stl: remove them, or set method to rsfp"
    with pytest.raises(ConfigError, match=told):
        load_settings(path=tmp_path / "s.yaml", overrides=("method=stl",))
    (tmp_path / "s.yaml").write_text("name: mine\n")
    assert load_settings(path=tmp_path / "s.yaml", overrides=("method=stl",)).method == "stl"


def test_so_many_neighbours_vote_as_memory_has_room_for():
    with pytest.raises(ConfigError, match=r"strata\.neighbours"):
        load_settings("tiny-stl", overrides=("strata.neighbours=1001", "strata.keep=2000"))


def test_settings_of_other_methods_are_not_written():
    shared = {"name", "note", "seed", "data", "calibration"}
    assert set(load_settings("tiny").model_dump()) == shared | set(SECTIONS["rsfp"])
    for name, method in (("tiny-stl", "stl"), ("tiny-region", "region_sparse"), ("tiny-front-end", "front_end")):
        written = load_settings(name).model_dump()
        assert set(written) == shared | set(SECTIONS[method]) | {"method"}
        assert Settings.model_validate(written) == load_settings(name)


def test_settings_of_region_sparse_that_cannot_go_together_are_refused():
    for override, said in (
        (
            "csc.lmbda=0.1",
            "csc: of method rsfp and stl, but method is region_sparse: remove it, or set method to rsfp or",
        ),
        ("region.nonzeros=17", "region.nonzeros is 17, of 16 atoms of 192 numbers: give 16 at most"),
        (
            "patches.images=3000000",
            "patches.images is 3000000 and each gives 10 patches of 192 numbers: that is too much",
        ),
        ("region.stride=9", "region.stride is 9, above patches.size: pixels would be left out"),
        ("patches.size=32", "patches.size is 32, above data.image_size, 16"),
        ("ablations=[noBS, noBS]", "ablations has one twice: noBS, noBS; name each once"),
        ("ablations=[noXX]", "ablations"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load_settings("tiny-region", overrides=("data.image_size=16", override))
    # Without training there are as many atoms as numbers.
    load_settings("tiny-region", overrides=("ablations=[noTR]", "region.nonzeros=100", "patches.images=100000000"))


def test_patches_that_memory_would_not_hold_are_refused_before_any_is_drawn():
    """An image of 16² has 81 patches of 8², however many are asked for."""
    many = "patches.per_image=1000000000"
    load_settings("tiny-region", overrides=("data.image_size=16", many))
    with pytest.raises(ConfigError, match=r"each gives 1034289 patches.* lower patches\.images or patches\.per_image"):
        load_settings("tiny-region", overrides=("data.image_size=1024", many))


def test_settings_of_a_front_end_that_cannot_go_together_are_refused():
    for override, said in (
        ("encoder.top=61", "encoder.top is 61, of 60 atoms: give 60 at most"),
        ("dictionary.stride=5", "stride is 5, above size, 4: pixels would be left out"),
        ("dictionary.size=20", "dictionary.size is 20, above data.image_size, 16"),
        ("decoder.depth=9", "decoder.depth is 9: a CIFAR ResNet has 6n + 2 layers: give 8, 14, 20 or 32"),
        ("decoder.channels=[8, 0]", "decoder.channels.1"),
        ("decoder.channels=[1000000000, 8]", "decoder.channels.0"),
        ("decoder.depth=60000002", "decoder.depth"),
        ("encoder.beta=.inf", "encoder.beta: Input should be a finite number"),
        ("encoder.beta=1", "encoder.beta"),
        ("encoder.dropout=1", "encoder.dropout"),
        ("decoder.classifier=vgg16", "decoder.classifier: Input should be 'cifar-resnet', 'efficientnet-b0' or"),
        ("decoder.pretrained=true", "decoder.pretrained is of a decoder that learns with efficientnet-lite0: set"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load_settings("tiny-front-end", overrides=("data.image_size=16", override))
    assert load_settings("tiny-front-end", overrides=("encoder.top=null",)).encoder.top is None
    paper = load_settings("cifar10-front-end-paper")
    assert (paper.decoder.supervised, paper.decoder.epochs, paper.decoder.lr) == (True, 70, 0.05)
    assert paper.encoder == type(paper.encoder)()
    # What came later is not written where it is not said.
    assert not {"classifier", "pretrained"} & {*paper.model_dump()["decoder"]}
    larger = load_settings("imagenet10-front-end")
    assert larger.model_dump()["decoder"]["classifier"] == "efficientnet-lite0"
    assert Settings.model_validate_json(larger.model_dump_json()) == larger
    assert larger.dictionary.images * larger.dictionary.per_image // larger.dictionary.batch == 10_000
    with pytest.raises(ConfigError, match=r"data\.image_size is 16, and decoder.classifier efficientnet-lite0 takes"):
        load_settings("imagenet10-front-end", overrides=("data.image_size=16",))
    without = ("decoder.classifier=efficientnet-b0",)
    with pytest.raises(ConfigError, match="pretrained is of a decoder that learns with efficientnet-lite0"):
        load_settings("imagenet10-front-end", overrides=without)


def test_settings_of_bundles_of_before_there_were_methods_keep_their_bytes():
    text = (resources.files("raypurify.bundles") / "cifar10" / "manifest.json").read_text()
    assert json.loads(text)["settings"] == Settings.model_validate(json.loads(text)["settings"]).model_dump()
    written = Settings.model_validate(json.loads(text)["settings"]).model_dump_json()
    assert written == json.dumps(json.loads(text)["settings"], separators=(",", ":"))
