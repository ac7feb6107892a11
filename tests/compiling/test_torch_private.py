"""Names of torch that are not public and that rlexp rests on. After an upgrade of torch, this test fails first."""

import inspect
import re
import tomllib
from pathlib import Path

import torch
import torch._inductor.config
from torch._C import _functorch
from torch._inductor import aot_compile, cpp_builder, cpu_vec_isa
from torch._inductor.exc import CppCompileError

import rlexp
from rlexp.compiling import libraries

PACKAGE = Path(rlexp.__file__).parent
USED = {  # in code, by file
    "compiling/compile.py": {"torch.compiler._is_compiling_flag"},
    "compiling/libraries.py": {
        "torch._inductor",
        "torch._inductor.exc",
        "torch._ops.OpOverload",
        "torch._C._aoti.AOTIModelContainerRunnerCpu",
    },
    "networks/noise.py": {"torch._C", "torch._C._current_graph_task_id"},
}


def test_they_are_there_and_are_what_they_were():
    assert torch.compiler._is_compiling_flag is False
    assert list(inspect.signature(cpp_builder.run_compile_cmd).parameters) == ["cmd_line", "cwd"]
    assert callable(cpu_vec_isa.valid_vec_isa_list.cache_clear)
    assert {"gm", "args", "options"} <= set(inspect.signature(aot_compile).parameters)
    assert issubclass(CppCompileError, RuntimeError)
    assert hasattr(torch._C._aoti.AOTIModelContainerRunnerCpu, "run")
    assert isinstance(torch.ops.aten.mm.default, torch._ops.OpOverload)
    assert torch._C._current_graph_task_id() == -1
    assert not _functorch.get_interpreter_stack()
    assert hasattr(_functorch.TransformType, "Vmap")
    for option in (*libraries.OPTIONS, *libraries._ASSUME_ISA, "aot_inductor.output_path"):
        group, _, name = option.rpartition(".")
        assert hasattr(getattr(torch._inductor.config, group) if group else torch._inductor.config, name), option


def test_no_others_are_used():
    for path in PACKAGE.rglob("*.py"):
        found = set(re.findall(r"torch(?:\.\w+)*?\._[a-zA-Z]\w*(?:\.\w+)*", path.read_text()))
        found = {name for name in found if not name.startswith("torch.utils._p")}  # _pytree, _python_dispatch: stable
        assert found == USED.get(str(path.relative_to(PACKAGE)), set()), path


def test_the_installed_version_is_one_that_was_tried():
    dependencies = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = re.search(r"torch>=([\d.]+),<([\d.]+)", " ".join(dependencies))
    low, high, installed = ([int(part) for part in x.split(".")[:2]] for x in (*bounds.groups(), torch.__version__))
    assert low <= installed < high
