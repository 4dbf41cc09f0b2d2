"""A model card is read by the hub's own parser, and shows nothing of this machine."""

import pytest
from huggingface_hub import ModelCard

from jaxtl.report.model_card import Exported, model_card

ODD = ["a|b", "<script>", "yes: no", 'the "best"', "naïve 雏菊", "# one\n## two", "---", "{{ x }}"]


@pytest.mark.parametrize("exported", [None, Exported("transformers", "org/name", True), Exported("timm", "my folder")])
def test_the_hub_reads_the_head_whatever_the_classes_are_called(facts, exported):
    made = facts(8, images=16, name='odd: "run" #1', weights={"location": "hf:google/vit@abc", "license": "apache-2.0"})
    made = facts(
        8,
        images=16,
        name=made.name,
        weights=made.weights,
        model={**made.model, "classes": ODD},
        results={**made.results, "classes": ODD},
    )
    card = ModelCard(model_card(made, exported), ignore_metadata_errors=False)
    head = card.data.to_dict()
    assert head["library_name"] == (exported.library if exported else "jaxtl")
    assert (head["license"], head["base_model"]) == ("apache-2.0", "google/vit")
    assert head["pipeline_tag"] == "image-classification"
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": made.metrics["accuracy"]}
    assert "&lt;script>" in card.text
    assert "<script>" not in card.text
    assert r"a\|b" in card.text
    # A class name starts no heading and ends no front matter.
    assert [line for line in card.text.splitlines() if line.startswith("#")] == [
        r'# odd: "run" \#1',
        "## Results",
        "## Training",
        "## Intended use",
        "## Use",
    ]


def test_a_card_says_how_to_load_what_is_pushed_and_what_is_not(facts):
    pushed = model_card(facts(), Exported("timm", "org/name", True, notes=["some sizes differ"]))
    assert 'timm.create_model("hf-hub:org/name", pretrained=True)' in pushed
    assert "--config.model.weights=hf:org/name --config.model.name=auto" in pushed
    assert "Note: some sizes differ.\n" in pushed
    folder = model_card(facts(), Exported("timm", "my folder"))
    assert 'timm.create_model("local-dir:my folder", pretrained=True)' in folder
    assert "--config.model.weights='my folder' " in folder
    assert 'from_pretrained("org/name", backend="pil")' in model_card(
        facts(), Exported("transformers", "org/name", True)
    )


def test_a_card_says_what_the_base_allows(facts):
    exported = Exported("timm", "mine")
    assert "is not known: find it out before" in model_card(
        facts(weights={"location": "/home/me/a.safetensors"}), exported
    )
    known = model_card(facts(weights={"location": "hf:a/b", "license": "cc-by-nc-4.0"}), exported)
    assert "that training began with is cc-by-nc-4.0; it holds for what became of them too." in known
    assert "licence" not in model_card(facts(), exported).lower().split("## intended use")[1]


def test_a_card_says_whether_its_probabilities_are_calibrated(facts):
    assert "as trained, not calibrated" in model_card(facts(), Exported("timm", "mine"))
    assert "are calibrated on val" in model_card(facts(), Exported("timm", "mine", calibrated=True))


def test_probabilities_of_several_labels_are_sigmoids(facts, several_facts):
    labels, logits = [[1, 0, 0], [0, 1, 1]], [[2, -1, -1], [-1, 3, 2]]
    assert "logits.sigmoid()" in model_card(several_facts(labels, logits), Exported("transformers", "mine"))
    assert "logits.softmax(0)" in model_card(facts(), Exported("transformers", "mine"))


def test_a_card_names_no_folder_of_this_machine(facts):
    private = "/home/somebody/secret"
    changed = {
        "data.source": f"csv:{private}/list.csv",
        "data.exclude": f"{private}/audit.csv",
        "data.data_dir": private,
        "data.relabel": f"{private}/audit.csv",
        "finetune.cache_dir": private,
        "model.weights": f"{private}/w.pth",
    }
    card = model_card(
        facts(
            changed=changed,
            source=f"csv:{private}/list.csv",
            weights={"location": f"{private}/w.pth"},
            workdir=f"{private}/run",
        ),
        Exported("transformers", "mine"),
    )
    assert "somebody" not in card
    assert "- `data.exclude`: `audit.csv`" in card
