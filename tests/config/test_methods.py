"""Methods on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from da_wa.config.compose import compose
from da_wa.errors import ConfigError
from da_wa.records.identity import method_facts
from da_wa.shipped import conf_dir


def nodes(*options: str):
    return compose(["experiment=demo", *options]).methods


def test_every_method_of_conf_composes():
    names = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
    assert len(names) == 16
    assert set(nodes(f"methods=[{','.join(names)}]")) == set(names)


def test_cdan_is_named_as_in_papers_and_the_label_is_no_fact():
    named, plain = nodes("methods=[cdan]")["cdan"], nodes("methods=[cdan]", "method.cdan.label=CDAN")["cdan"]
    assert named["build"]["entropy"] is True
    assert (named["label"], plain["label"]) == ("CDAN+E", "CDAN")
    assert method_facts("cdan", named) == method_facts("cdan", plain)


def test_an_option_is_set_in_every_method_that_has_it_or_in_one():
    both = nodes("methods=[none,mcc,coral,shot]", "method.weight=0.5", "method.mcc.build.temperature=1.0")
    assert (both["mcc"]["weight"], both["coral"]["weight"]) == (0.5, 0.5)
    assert "weight" not in both["shot"]
    assert "weight" not in both["none"]
    assert both["mcc"]["build"]["temperature"] == 1.0
    one = nodes("methods=[mcc,coral]", "method.coral.weight=3.0")
    assert (one["mcc"]["weight"], one["coral"]["weight"]) == (1.0, 3.0)


def test_several_weights():
    assert nodes("methods=[mcc]", "method.weight=[0.1,1.0]")["mcc"]["weight"] == [0.1, 1.0]


def test_a_method_without_source_images_has_a_recipe_of_its_own():
    found = nodes("methods=[shot,tent]", "method.shot.recipe.epochs=3", "finetune.epochs=7", "finetune.batch_size=8")
    assert found["shot"]["recipe"]["epochs"] == 3
    assert found["shot"]["recipe"]["batch_size"] == 8
    assert (found["tent"]["recipe"]["epochs"], found["tent"]["recipe"]["batch_size"]) == (1, 64)
    assert nodes("methods=[shot]", "finetune.epochs=7")["shot"]["recipe"]["epochs"] == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["methods=[mmc]"], "Did you mean 'mcc'"),
        (["methods=[mcc]", "method.wieght=2.0"], "weight"),
        (["methods=[mcc]", "method.build.temprature=2.0"], "temperature"),
        (["methods=[shot]", "method.weight=2.0"], "weight"),
        (["methods=[mcc,shot]", "method.coral.weight=2.0"], "coral"),
        (["methods=[mcc]", "method.statistics=both"], "statistics"),
        (["methods=[mcc]", "method.phase=online"], "phase"),
        (["methods=[tent]", "method.order=random"], "order"),
        (["methods=[mcc]", "method.weight=heavy"], "weight"),
        (["methods=[mcc]", "method.weight=[]"], "weight"),
        (["methods=[shot]", "method.recipe.epochs=0"], "epochs"),
        (["methods=[]"], "methods"),
    ],
)
def test_bad_options_say_what_is_wrong(options, said):
    with pytest.raises(ConfigError) as caught:
        nodes(*options)
    assert said in str(caught.value)


def test_the_table_of_the_documentation_has_the_defaults_of_conf():
    page = (Path(__file__).resolve().parents[2] / "docs" / "adaptation.md").read_text()
    rows = {cells[1].strip(" `"): cells for cells in (line.split("|") for line in re.findall(r"^\| `.*", page, re.M))}
    names = {path.stem for path in (conf_dir() / "method").glob("*.yaml")} - {"none"}
    assert set(rows) == names
    for name, node in nodes(f"methods=[{','.join(sorted(names))}]").items():
        assert rows[name][2].strip() == node["phase"]
        build = {key: value for key, value in node["build"].items() if key != "_target_"}
        shown = {"weight": node["weight"]} if "weight" in node else {}
        shown |= build | ({"statistics": "domain"} if node.get("statistics") == "domain" else {})
        told = dict(re.findall(r"(\S+) (\S+?)(?:,| *$)", rows[name][4]))
        assert told == {key: str(value).lower() for key, value in shown.items()}
