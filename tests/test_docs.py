"""Every snippet and command of the documentation works as it is printed, every flag and link
exists, and the site builds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from benchmarks import counts
from examples.shapes.tables import filled
from lcm.config.command_line import parse_config
from lcm.config.names import spellings
from lcm.config.other_scripts import FOREIGN_FLAGS
from lcm.config.run import FIELDS, TrainConfig
from lcm.config.yaml_file import read_yaml
from tests.support import ROOT
from tests.support.documents import DOCUMENTS, blocks, commands, follow, prose
from tests.support.programs import known_flags


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone as far as a page needs it."""
    for name in ("examples", "train_lcm_lora.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "run.yaml").write_text(
        next(b.text for b in blocks("docs/training.md") if b.language == "yaml")
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_page_can_be_followed(document: str, workplace: Path) -> None:
    assert (
        follow(document)
        == len(re.findall("^```", (ROOT / document).read_text(), re.MULTILINE)) // 2
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_and_links_exist(document: str) -> None:
    assert (
        set(re.findall(r"--([a-z0-9][a-z0-9_]+)", prose(document)))
        <= known_flags() | FOREIGN_FLAGS.keys()
    )
    for link in re.findall(r"\]\(([^)#]+)\)", prose(document)):
        assert link.startswith("http") or (ROOT / document).parent.joinpath(link).exists(), link


def test_the_site_builds_strictly_and_asks_for_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    build(config)
    pages = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_text()
        for path in tmp_path.rglob("*.html")
    }
    assert {
        "index.html",
        "training.html",
        "reference.html",
        "examples/shapes/index.html",
    } <= pages.keys()
    for name, page in pages.items():
        fetched = re.findall(
            r"<(?:script|img|iframe)[^>]*src=\"?(https?:[^\" >]+)|<link[^>]*href=\"?(https?:[^\" "
            r">]+)",
            page,
        )
        assert fetched == [], name
    assert (tmp_path / "site" / "examples" / "shapes" / "results" / "demo.png").is_file()


def test_yaml_of_the_guide_has_a_float_learning_rate(workplace: Path) -> None:
    assert parse_config(["--config", "run.yaml"]).optimizer.learning_rate == 2e-5


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples" / "shapes").rglob("*.yaml")), ids=lambda path: path.name
)
def test_example_configurations_parse(path: Path) -> None:
    assert read_yaml(path)
    data = [] if "prompts_file" in read_yaml(path) else ["--train_data_dir", "x"]
    assert isinstance(parse_config(["--config", str(path), *data]), TrainConfig)
    assert yaml.safe_load(path.read_text()).keys() <= FIELDS.keys()


def test_every_flag_has_help_and_the_guide_names_the_defaults() -> None:
    for name, spec in FIELDS.items():
        assert len(spec.metadata["flag"].help) > 4, name
    guide = (ROOT / "docs" / "training.md").read_text()
    # those of lcm, the default method
    defaults = parse_config(["--pretrained_teacher_model", "x", "--train_data_dir", "y"]).flat()
    for name in (
        "guidance_scale",
        "num_ddim_timesteps",
        "lora_rank",
        "train_batch_size",
        "checkpointing_steps",
    ):
        assert re.search(rf"`--{name}`.*\| {defaults[name]}[ ,|]", guide), name


def test_tables_are_what_the_raw_results_say() -> None:
    text = (ROOT / "examples" / "shapes" / "README.md").read_text()
    assert filled(text) == text


SCRIPTS_FLAGS = """
    pretrained_teacher_model pretrained_vae_model_name_or_path teacher_revision revision output_dir
    cache_dir seed logging_dir report_to checkpointing_steps checkpoints_total_limit
    resume_from_checkpoint train_shards_path_or_url dataset_name dataset_config_name train_data_dir
    image_column caption_column resolution interpolation_type use_fix_crop_and_size center_crop
    random_flip encode_batch_size vae_encode_batch_size dataloader_num_workers train_batch_size
    num_train_epochs max_train_steps max_train_samples learning_rate scale_lr lr_scheduler
    lr_warmup_steps gradient_accumulation_steps use_8bit_adam adam_beta1 adam_beta2
    adam_weight_decay adam_epsilon max_grad_norm proportion_empty_prompts w_min w_max
    num_ddim_timesteps loss_type huber_c lora_rank lora_alpha lora_dropout lora_target_modules
    timestep_scaling_factor mixed_precision allow_tf32 cast_teacher_unet
    enable_xformers_memory_efficient_attention gradient_checkpointing local_rank validation_steps
    tracker_project_name push_to_hub hub_model_id hub_token
""".split()
"""The flags of the three scripts for LoRAs in diffusers' examples/consistency_distillation, read in
their sources.
"""


def test_every_flag_of_the_public_scripts_is_accepted_or_answered() -> None:
    page = (ROOT / "docs" / "from-public-scripts.md").read_text()
    rows = re.findall(r"^\| `--(\w+)` \| (.+?) \|", page, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(SCRIPTS_FLAGS)
    for name, ours in rows:
        if ours == "same":
            assert name in FIELDS, name
        elif ours == "none":
            assert name in FOREIGN_FLAGS and name not in spellings(), name
        else:
            named = ours.strip("`-")
            assert spellings().get(name) == named or FOREIGN_FLAGS[name].startswith(named), name


TEACHERS = {
    "stable-diffusion-v1-5": "sd15",
    "stable-diffusion-2-1": "sd21",
    "stable-diffusion-xl-base-1.0": "sdxl",
}


def test_the_commands_for_cards_fit_by_the_counts() -> None:
    models = json.loads((counts.RESULTS / counts.NAME).read_text())["models"]
    found = [block.text for block in blocks("docs/distil.md") if block.text.startswith("# ")]
    assert len(found) == 9
    for text in found:
        size, room = map(int, re.findall(r"\d+", text.splitlines()[0]))
        config = parse_config(next(commands(text))[3:])
        model = models[TEACHERS[Path(config.teacher.path).name]]
        given = config.flat()
        flags = [f"--{name}" for name in ("cache_latents", "use_8bit_adam") if given[name]]
        case = counts.CASES[", " + " ".join(flags) if flags else ""]
        step = {"no": model["step"], **model["checkpointing"]}[given["gradient_checkpointing"]]
        free = size * counts.GIGA - counts.BESIDES - counts.held_bytes(model, *case)
        assert room == free // step["peak_bytes_per_image"], text
        assert (
            given["train_batch_size"] <= 0.92 * room
            and given["mixed_precision"] == "fp16"
            and given["lora_rank"] == counts.RANK
        )
