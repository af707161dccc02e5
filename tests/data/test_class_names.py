"""A data set's classes under a model's names, and the halves of a split."""

from pathlib import Path

import pytest

from sightline.data import load_dataset
from sightline.data.class_names import read_class_names, with_class_names
from sightline.data.splits import halves
from sightline.errors import InputError
from sightline.types import Dataset, Sample


@pytest.fixture
def birds() -> Dataset:
    samples = [Sample(f"a/{i}.jpg", Path(f"{i}.jpg"), i % 3) for i in range(60)]
    return Dataset("birds", "test", samples, ("Laysan", "Sooty", "Crow"))


def test_the_halves_are_disjoint_and_the_same_in_any_order(birds: Dataset) -> None:
    choose, report = halves(birds)
    again = halves(Dataset("birds", "test", birds.samples[::-1], birds.categories))[0]
    ids = {sample.id for sample in choose.samples}
    assert ids == {sample.id for sample in again.samples}
    assert ids.isdisjoint(sample.id for sample in report.samples)
    assert len(choose) + len(report) == 60
    assert 20 < len(choose) < 40


def test_the_halves_do_not_depend_on_the_folder(birds: Dataset) -> None:
    moved = [Sample(f"photos/b/{Path(s.id).name}", s.source, s.label) for s in birds.samples]
    here, there = halves(birds)[0], halves(Dataset("birds", "test", moved, birds.categories))[0]
    assert [Path(s.id).name for s in here.samples] == [Path(s.id).name for s in there.samples]


def test_classes_with_one_name_become_one(birds: Dataset) -> None:
    named = with_class_names(birds, {"Laysan": "albatross", "Sooty": "albatross"})
    assert named.categories == ("albatross", "Crow")
    assert [sample.label for sample in named.samples[:3]] == [0, 0, 1]


def test_a_table_of_names(tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text('data set,model\nCrow,"crow, Corvus"\n', encoding="utf-8")
    assert read_class_names(table) == {"Crow": "crow, Corvus"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "line 1: expected the header 'data set,model'"),
        ("data set,model\nCrow\n", "line 2: expected a class and its name in the model"),
    ],
)
def test_a_faulty_table(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "names.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_class_names(table)


def test_an_unknown_table_and_a_table_for_another_data_set(birds: Dataset) -> None:
    with pytest.raises(InputError, match="did you mean 'cub-200-2011'"):
        read_class_names("cub-200-2010")
    with pytest.raises(InputError, match="none of the names is a class of birds, e\\.g\\. 'Danaus"):
        with_class_names(birds, read_class_names("leeds-butterflies"))


def test_load_dataset_takes_both(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("Crow", "Sooty"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{name}{i}.png")
    table = tmp_path / "names.csv"
    table.write_text("data set,model\nSooty,albatross\n", encoding="utf-8")
    found = load_dataset(tmp_path, "folder", "all-report", class_names=table)
    assert found.categories == ("Crow", "albatross")
    assert found.split == "all-report"
    assert 0 < len(found) < 16
