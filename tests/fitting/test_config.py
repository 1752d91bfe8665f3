"""The config: a template that is the defaults, one-line errors naming section and key, paths that keep their meaning."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from adatom.fitting.config import SIZES, ConfigError, FitConfig, dump_config, load_config, template
from adatom.potential.descriptors import DeepPotentialConfig, MomentsConfig, SymmetryFunctionsConfig


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fit.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_template_is_the_defaults() -> None:
    text = template()
    assert FitConfig.model_validate(tomllib.loads(text)) == FitConfig() == load_config(None)
    for section in ("[data]", "[model]", "[model.descriptor]", "[model.fitting_net]", "[loss]", "[training]"):
        assert sum(line.startswith(section) for line in text.splitlines()) == 1
    keys = [key for part in FitConfig().model_dump()["training"] for key in [part]]
    assert all(f"\n{key} = " in text for key in keys)
    assert "eV" in text.split("[loss]")[1].splitlines()[0]


def test_dump_and_load(tmp_path: Path) -> None:
    config = load_config(
        None,
        ["model.descriptor.type=deep_potential", "model.e0.Cu=-3.5", "training.seed=7", "loss.huber=0.1"],
        {"data.train": ["a.xyz", "b/*.xyz"], "data.test": "c.db"},
    )
    again = load_config(toml(tmp_path, dump_config(config)))
    assert again == config
    assert isinstance(again.model.descriptor, DeepPotentialConfig)
    assert dump_config(again) == dump_config(config)


def test_explicit_symmetry_functions_survive_dump_and_load(tmp_path: Path) -> None:
    text = "[model.descriptor]\ntype = 'symmetry_functions'\nradial = [[0.5, 1.0]]\nangular = [[0.1, 0.0, 2.0, -1.0]]\n"
    config = load_config(toml(tmp_path, text))
    assert config.model.descriptor.radial == ((0.5, 1.0),)
    assert load_config(toml(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.epochs=5", 5),
        ("training.learning_rate=1e-4", 1e-4),
        ("training.schedule=exponential", "exponential"),
        ('training.schedule="constant"', "constant"),
        (" training.seed = 3 ", 3),
        ("model.fitting_net.widths=[8, 8]", (8, 8)),
        ("model.descriptor.cutoff=4", 4.0),
        ('model.elements=["Cu", "Al"]', ("Cu", "Al")),
        ("model.e0.Al=-1.5", {"Al": -1.5}),
        ("model.e0=least_squares", "least_squares"),
        ("model.repulsion=false", False),
        ("data.group_key=run", "run"),
    ],
)
def test_settings(setting: str, value: object) -> None:
    config: object = load_config(None, [setting])
    for name in setting.partition("=")[0].strip().split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
        if config == value:
            break
    assert config == value


def test_settings_change_only_their_key_and_overrides_win(tmp_path: Path) -> None:
    path = toml(
        tmp_path, "[training]\nepochs = 3\nseed = 4\n[model.descriptor]\ntype = 'symmetry_functions'\nn_radial = 5\n"
    )
    config = load_config(path, ["training.epochs=6", "model.descriptor.cutoff=4.5"], {"training.epochs": 9})
    assert (config.training.epochs, config.training.seed) == (9, 4)
    assert config.model.descriptor == SymmetryFunctionsConfig(n_radial=5, cutoff=4.5)


def test_named_sizes_and_what_is_given_beside_them() -> None:
    small, medium, large = (load_config(None, [f"model.size={s}", "model.descriptor.cutoff=6"]).model for s in SIZES)
    assert (small.fitting_net.widths, large.fitting_net.widths) == ((16, 16), (64, 64))
    n_channels = [x.descriptor.n_channels for x in (small, medium, large) if isinstance(x.descriptor, MomentsConfig)]
    assert n_channels == [8, 16, 32]
    assert {x.descriptor.cutoff for x in (small, medium, large)} == {6.0}
    own = load_config(None, ["model.size=large", "model.fitting_net.widths=[5]", "model.descriptor.n_channels=3"]).model
    assert (own.fitting_net.widths, own.descriptor.n_features(1)) == ((5,), 3 * 14)
    with pytest.raises(ConfigError, match="size is for moments; give the sizes of deep_potential by their own keys"):
        load_config(None, ["model.size=small", "model.descriptor.type=deep_potential"])


def test_the_kind_of_descriptor_chooses_its_keys() -> None:
    config = load_config(None, ["model.descriptor.type=deep_potential", "model.descriptor.embedding_net=[4, 8]"])
    assert config.model.descriptor == DeepPotentialConfig(embedding_net=(4, 8))
    config = load_config(None, ["model.descriptor.type=symmetry_functions", "model.descriptor.zetas=[1]"])
    assert config.model.descriptor == SymmetryFunctionsConfig(zetas=(1.0,))
    default = FitConfig().model.descriptor  # settings without a type are about the default
    changed = load_config(None, ["model.descriptor.cutoff=4"]).model.descriptor
    assert changed == default.model_copy(update={"cutoff": 4.0})


def test_data_paths_are_relative_to_the_config_and_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    path = toml(tmp_path / "runs", '[data]\ntrain = ["../a.xyz", "/data/b.xyz", "*.xyz"]\ntest = "c.xyz"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = (str(tmp_path / "a.xyz"), "/data/b.xyz", str(tmp_path / "runs" / "*.xyz"))
    for given in (path, Path("runs/fit.toml")):
        config = load_config(given, ["data.validation=d.xyz"])
        assert config.data.train == expected
        assert config.data.test == (str(tmp_path / "runs" / "c.xyz"),)
        assert config.data.validation == (str(tmp_path / "d.xyz"),)  # --set is relative to the working folder
    assert load_config(None, [], {"data.train": ["~/x.xyz"]}).data.train == (str(tmp_path / "home" / "x.xyz"),)


def test_the_resolved_config_means_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, [], {"data.train": ["a.xyz"]})
    (tmp_path / "out").mkdir()
    saved = toml(tmp_path / "out", dump_config(config))
    assert load_config(saved) == config


BAD = {
    "unknown key, nested": ("[model.descriptor]\ncutof = 4.0", "unknown key 'cutof'", "[model.descriptor]", "'cutoff'"),
    "unknown key": ("[training]\nepoch = 4", "unknown key 'epoch'", "[training]", "did you mean 'epochs'?"),
    "unknown section": ("[trainig]\nepochs = 4", "unknown key 'trainig'", "did you mean 'training'?"),
    "unknown, nothing like it": ("[loss]\nzzzzzz = 4", "unknown key 'zzzzzz' in [loss]"),
    "of the other descriptor": (
        "[model.descriptor]\ntype = 'symmetry_functions'\naxis = 4",
        "unknown key 'axis' in [model.descriptor]",
    ),
    "deep key misspelt": (
        "[model.descriptor]\ntype = 'deep_potential'\nembeding_net = [3]",
        "unknown key 'embeding_net'",
        "'embedding_net'",
    ),
    "text for a number": ("[training]\nepochs = 'many'", "'epochs' in [training]", "integer", "'many'"),
    "half an epoch": ("[training]\nepochs = 1.5", "'epochs' in [training]", "integer"),
    "negative": ("[training]\nepochs = -1", "'epochs' in [training]", "greater than or equal to 0", "-1"),
    "zero": ("[training]\nlearning_rate = 0.0", "'learning_rate' in [training]", "greater than 0"),
    "nan": ("[training]\nlearning_rate = nan", "'learning_rate' in [training]"),
    "no choice": ("[training]\nschedule = 'linear'", "'schedule' in [training]", "'cosine'", "'linear'"),
    "negative cutoff": ("[model.descriptor]\ncutoff = -4.0", "'cutoff' in [model.descriptor]", "greater than 0.5"),
    "no kind of descriptor": ("[model.descriptor]\ntype = 'soap'", "'descriptor' in [model]", "'soap'"),
    "number in a list of files": ("[data]\ntrain = ['a', 3]", "'train[1]' in [data]", "string"),
    "number for a list": ("[data]\ntrain = 3", "'train' in [data]", "got 3"),
    "fraction": ("[data]\nvalidation_fraction = 1.0", "'validation_fraction' in [data]", "less than 0.9"),
    "no element": ("[model]\nelements = ['Xx']", "'model' in the file", "'Xx' is not the symbol of an element"),
    "element twice": ("[model]\nelements = ['Cu', 'Cu']", "elements named twice"),
    "no e0": ("[model]\ne0 = 'guess'", "'e0' in [model]", "'least_squares'", "got 'guess'"),
    "e0 not a number": ("[model]\ne0 = {Cu = nan}", "'model' in the file", "e0 of Cu"),
    "width": ("[model.fitting_net]\nwidths = [8, 0]", "'widths[1]' in [model.fitting_net]", "greater than or equal"),
    "nothing to fit": (
        "[loss]\n" + "\n".join(f"{t}_{e} = 0" for t in ("energy", "forces", "stress") for e in ("start", "end")),
        "all prefactors are zero",
    ),
    "a value for a section": ("training = 3", "'training' in the file", "got 3"),
    "switch order": (
        "[model.descriptor]\ntype = 'deep_potential'\nsmooth_cutoff = 9.0",
        "smooth_cutoff 9.0 must be smaller than cutoff",
    ),
    "not TOML": ("[training\nepochs = 3", "not valid TOML", "line 1"),
    "twice": ("[data]\n[data]\n", "not valid TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line_with_section_and_key(tmp_path: Path, case: str) -> None:
    text, *phrases = BAD[case]
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    said = str(error.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 420 + len(str(path))
    for phrase in phrases:
        assert phrase in said


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        (["training.epochs"], "write section.key=value"),
        (["training.epochs=many"], "'epochs' in [training]"),
        (["training.epochs=3", "training.epochs.x=3"], "epochs is a value, not a section"),
        (["epochs=3"], "unknown key 'epochs' in the file"),
        (["=3"], "unknown key '' in the file"),
        (["model.descriptor=4"], "'descriptor' in [model]"),
        (["training.keep=last", "training.patience=3"], "patience waits for better weights: it needs keep = 'best'"),
    ],
)
def test_bad_settings(settings: list[str], phrase: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, settings)
    assert phrase in str(error.value)
    assert "\n" not in str(error.value)


def test_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file; `adatom template fit` prints one"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="a folder, not a config file"):
        load_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "binary.toml")


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(None).training.epochs = 3  # type: ignore[misc]
