"""Names of run folders."""

from rlexp.config.identity import config_hash
from rlexp.run.names import job_name


def test_names_are_cut_to_what_file_systems_take():
    few = [f"algo.key_{k}=0.123456789" for k in range(7)]
    assert job_name(few, {}).startswith(",".join(few) + "-")
    many = job_name([f"algo.key_{k}=0.123456789" for k in range(40)], {"a": 1})
    assert 200 < len(many.encode()) < 240
    assert many[-9:] == "-" + config_hash({"a": 1})
    assert len(job_name(["env.id=" + "é" * 300], {}).encode()) < 240
