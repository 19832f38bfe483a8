"""Old spellings keep working: what a notebook of 0.1.0 took from helpers is still found there."""

from importlib import import_module
from operator import attrgetter

import pytest

# every name that the notebooks of 0.1.0 import from these modules or use as their attribute
NAMES = {
    "helpers": "CourseError checks download engine hub machine models plots qwen routing",
    "helpers.checks": """
        capstone_A1 exercise_01_1 exercise_01_2 exercise_01_3 exercise_02_1 exercise_02_2 exercise_02_3
        exercise_03_1 exercise_03_2 exercise_03_3 exercise_04_1 exercise_04_2 exercise_04_3 exercise_04_4
        exercise_05_1 exercise_05_2 exercise_06_1 exercise_06_2 exercise_07_1 exercise_07_2 exercise_07_3
        exercise_08_1 exercise_08_2 exercise_08_3 exercise_A1_1 exercise_A1_2 exercise_A1_3 exercise_A1_4
    """,
    "helpers.download": "download verify",
    "helpers.engine": "close_engine on_cpu open_engine split",
    "helpers.explorer": "ChatPanel MemoryExplorer RoutingExplorer SamplingExplorer",
    "helpers.hub": "HEADING Handler Hub",
    "helpers.machine": "SETS choose_set installed installed_set look preflight require_vllm",
    "helpers.models": """
        CATALOGUE GIB GPU_SHARE MOE_VARIABLE ROOT broken_files capabilities course_model course_moe_model describe
        find_checkpoint fits head_dim is_bundled is_hub_id kv_bytes_per_token parameters read_config read_header use
        weight_bytes
    """,
    "helpers.plots": """
        EXPERT_COLOURS TOKENS_PER_ROW association block_tables expert_load figure gpu_memory printable
        rise_without_expert routing_map timeline
    """,
    "helpers.qwen": "QwenModel checkpoint_views keep_min_p keep_top_k keep_top_p load_model",
    "helpers.routing": """
        RoutingTrace TOKEN_CLASSES agreement capture_conversation capture_reference capture_transformers
        capture_vllm class_association coefficient_of_variation concatenate expert_load expert_off gini never_used
        pieces recording token_class written_losses
    """,
    "helpers.server": "Server Server.knows",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module].split()])
def test_a_name_of_0_1_0_is_found(module, name):
    found = import_module(f"helpers.{name}") if module == "helpers" and name[0].islower() else None
    assert found or attrgetter(name)(import_module(module)) is not None


@pytest.mark.parametrize("module", ["helpers.models", "helpers.machine", "helpers.qwen"])
def test_a_name_that_never_was_is_refused(module):
    with pytest.raises(AttributeError, match="no_such_name"):
        import_module(module).no_such_name  # noqa: B018
