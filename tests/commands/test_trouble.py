"""A disk that is full, or that can no longer be written to, costs time but no result."""

import shutil
from pathlib import Path

import pytest
from small_disk import on_small_disk
from test_resume import same_run

PROGRAM = """
import shutil, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, "{here}")
import warm

disk, kept, flags = Path("{disk}"), Path("{kept}"), {flags}


def start(workdir, output):
    return warm.start(("train", f"--workdir={{workdir}}", *flags), output)


def run(workdir, name):
    process = start(workdir, kept / name)
    process.join()
    return process.exitcode, (kept / name).read_text()


def free():
    return shutil.disk_usage(disk).free


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


status, said = run(kept / "whole", "whole.txt")
assert status == 0, said
size = sum(path.stat().st_blocks * 512 for path in (kept / "whole").rglob("*"))
for number, part in enumerate((0.01, 0.5, 0.85)):
    (disk / "other").write_bytes(bytes(free() - int(part * size) // 4096 * 4096))
    status, said = run(disk / "run", f"full{{number}}.txt")
    errors = said[said.find("error: ") :]
    print(part, status, errors)
    assert status == 1 and len(errors.splitlines()) <= 2 and "Traceback" not in said, said
    (disk / "other").unlink()
    status, said = run(disk / "run", f"again{{number}}.txt")
    assert status == 0, said
    shutil.copytree(disk / "run", kept / f"full{{number}}")
    shutil.rmtree(disk / "run")

process = start(kept / "readonly", kept / "readonly.txt")
checkpoints = str(kept / "readonly" / "checkpoints")
while process.exitcode is None and not Path(checkpoints, "4").exists():
    process.join(0.01)
mount("--bind", checkpoints, checkpoints)
mount("-o", "remount,ro,bind", checkpoints)
process.join()
said = (kept / "readonly.txt").read_text()
errors = said[said.find("error: ") :]
print("read-only", process.exitcode, errors)
assert process.exitcode == 1 and len(errors.splitlines()) <= 2 and "Traceback" not in said, said
subprocess.run(["umount", checkpoints], check=True)
status, said = run(kept / "readonly", "writable.txt")
assert status == 0 and "continues at step" in said, said
"""


@pytest.mark.slow
def test_a_run_ends_with_an_error_where_it_cannot_write_and_goes_on_where_it_can(config_file, pictures, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    flags = (f"--config={config_file}", f"--config.data.source=folder:{pictures}", "--config.model.dropout=0.1")
    program = PROGRAM.format(here=Path(__file__).parent, disk=disk, kept=kept, flags=flags)
    print(on_small_disk(disk, program, size="32m"))
    for name in ("full0", "full1", "full2", "readonly"):
        same_run(kept / name, kept / "whole")
    shutil.rmtree(kept)
