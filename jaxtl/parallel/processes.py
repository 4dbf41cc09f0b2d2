"""Several processes, one run: how they find each other, what they agree on, and which of them writes.

Everything here may be called in a run of one process, too, where it costs nothing.
"""

import atexit
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed as runtime  # Its client has no public name.
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtl.errors import UserError
from jaxtl.parallel.cpu_runtime import dispatch_synchronously

# What a process ends with whose peers are missing or gone: neither 1, for a person to fix, nor 75, "saved".
PEERS_MISSING = os.EX_PROTOCOL
# Bytes of a text that `gather` carries.
_TEXT = 1024
# Where a process that cannot go on says so, and seconds that it waits for all others to have heard it.
_ENDS, _HEARD = "jaxtl/ends/", 5
_parting = threading.Lock()
# What SLURM sets for each process that srun starts, and jax needs to find the others.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def connect(address: str = "", processes: int = 0, process_id: int = -1, *, timeout: int = 120) -> None:
    """Joins the processes of a run; to be called before anything touches a device.

    Without an address, a SLURM step of several tasks and a TPU VM are recognised, and say the rest by themselves;
    elsewhere this process stays alone.

    Args:
      address: "host:port", where process 0 can be reached.
      processes: their number.
      process_id: of this one, from 0.
      timeout: seconds to wait for the others; past them the process ends with status 76, to be started again.

    Raises:
      UserError: only some of the three are given, or the processes run different versions.
    """
    if address or processes > 0 or process_id >= 0:
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit() and 0 <= process_id < processes):
            given = f"--coordinator={address or '?'} --processes={processes} --process-id={process_id}"
            wrong = "give all three"
            if address and processes > 0 and process_id >= 0:
                wrong = "the first lacks a port" if not (host and port.isdigit()) else "the last counts from 0"
            raise UserError(f"{given}: {wrong}, as in --coordinator=10.0.0.1:1234 --processes=2 --process-id=0 and =1.")
        where = f"process {process_id} of {processes} at {address}"
    elif all(os.environ.get(name) for name in _SLURM) and int(os.environ["SLURM_NTASKS"]) > 1:
        where = f"task {os.environ['SLURM_PROCID']} of {os.environ['SLURM_NTASKS']} of SLURM"
    elif _on_tpu():
        where = "this TPU VM"
    else:
        return
    over = _give_up_after(timeout, f"{where}: not all processes had come together after {timeout} s")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # On CPUs, two programs that run at the same time would mix up their messages; accelerators run one by one.
    dispatch_synchronously()
    try:
        # jax ends the process with a dump when time is up; the thread above says what is wrong before that.
        jax.distributed.initialize(
            coordinator_address=address or None,
            num_processes=processes if address else None,
            process_id=process_id if address else None,
            initialization_timeout=timeout + 60,
            # With an address there is nothing to detect, unless SLURM knows which GPU is whose.
            cluster_detection_method="deactivate" if address and "SLURM_LOCALID" not in os.environ else None,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error} Give --coordinator, --processes and --process-id.") from error
    finally:
        over.set()
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(over,), daemon=True, name="jaxtl-peers")
    listener.start()
    atexit.register(_stop_listening, listener, over)
    _check_versions()


def is_main() -> bool:
    """Tells whether this is the process that writes files and lines."""
    return jax.process_index() == 0


def gather(text: str = "") -> list[str]:
    """Returns the text of each process, in their order; all must call it, and it returns when they have."""
    if jax.process_count() == 1:
        return [text]
    sent = text.encode()
    if len(sent) > _TEXT:
        # A character may be cut in half at the end.
        sent = sent[: _TEXT - 4].decode(errors="ignore").encode() + " …".encode()
    every = multihost_utils.process_allgather(np.frombuffer(sent.ljust(_TEXT, b"\0"), np.uint8))
    return [np.asarray(one).tobytes().rstrip(b"\0").decode() for one in every]


def all_true(flag: bool) -> bool:
    """Tells whether the flag is true in every process."""
    return all(gather("1" if flag else ""))


def on_all_processes(check: Callable[[], None]) -> None:
    """Runs a check in every process.

    Raises:
      UserError: it raised one in some process; the others would otherwise wait for that one for ever.
    """
    own: UserError | None = None
    try:
        check()
    except UserError as error:
        own = error
    problems = gather(str(own or ""))
    if own is not None and len(problems) == 1:
        raise own
    if any(problems):
        raise UserError("\n".join(f"process {number}: {text}" for number, text in enumerate(problems) if text))


def check_alike(what: str, values: Mapping[str, object]) -> None:
    """Sees that all processes have the same values.

    Raises:
      UserError: names the keys, and the processes that have something else than process 0.
    """
    if not is_multiprocess():
        return
    # Of all together first: of many keys not every mark is sent.
    prints = [hashlib.sha256(f"{item}".encode()).hexdigest()[:6] for item in (dict(values), *values.items())]
    every = gather("".join(prints))
    other = [str(number) for number, text in enumerate(every) if text != every[0]]
    if other:
        differ = [key for i, key in enumerate(values, start=1) if len({text[6 * i : 6 * i + 6] for text in every}) > 1]
        raise UserError(
            f"{what}: process {' and '.join(other)} differs from process 0 in {', '.join(differ[:6])}: "
            "start all processes alike."
        )


def is_multiprocess() -> bool:
    """Tells whether this process has joined others; unlike jax.process_count, it does not wait for their devices."""
    return runtime.global_state.client is not None and runtime.global_state.num_processes > 1


def end(error: Exception) -> NoReturn:
    """Ends all processes, because this one cannot go on.

    Without it the others would wait for this one, and this one, when Python ends, for the others.
    """
    if _parting.locked():
        time.sleep(2 * _HEARD)  # Another process has said why, and this error comes of its end.
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    client: Any = runtime.global_state.client
    status = status_of(error)
    try:
        why = str(error) or type(error).__name__
        client.key_value_set(f"{_ENDS}{runtime.global_state.process_id}", f"{status} {why}")
        _part(client, status)
    except jax.errors.JaxRuntimeError:  # Nobody is there to hear it.
        _exit(status)


def status_of(error: BaseException) -> int:
    """Returns what a process ends with by this error: 1, or PEERS_MISSING if a collective failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, jax.errors.JaxRuntimeError) and cause.error_code_string != "RESOURCE_EXHAUSTED":
            return PEERS_MISSING
        cause = cause.__cause__ or cause.__context__
    return 1


def _listen(over: threading.Event) -> None:
    """Ends this process when another one says that it cannot go on."""
    while not over.wait(1) and (client := runtime.global_state.client) is not None:
        try:
            said = client.key_value_dir_get(_ENDS)
        except jax.errors.JaxRuntimeError:  # The run is over; or process 0 is gone, which jax notices itself.
            return
        if said:
            key, text = min(said)
            status, why = text.split(" ", 1)
            number = int(key.removeprefix(_ENDS))
            if number != runtime.global_state.process_id:
                print(f"process {number} cannot go on: {why}", file=sys.stderr, flush=True)
            _part(client, int(status))


def _stop_listening(listener: threading.Thread, over: threading.Event) -> None:
    """Lets the listener end before Python does, which would abort a process with a thread inside the client."""
    over.set()
    listener.join(_HEARD)


def _part(client: Any, status: int) -> NoReturn:
    if not _parting.acquire(blocking=False):
        time.sleep(2 * _HEARD)  # The other thread is about to end this process.
    try:
        client.wait_at_barrier(_ENDS, 1000 * _HEARD)
        # Process 0 carries the messages, so that it goes last.
        time.sleep(runtime.global_state.process_id == 0)
    except jax.errors.JaxRuntimeError:  # One is dead, or stuck.
        pass
    _exit(status)


def _exit(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Python's own end would wait for the others once more.
    os._exit(status)


class Vote:
    """Asks all processes, without waiting: an answer holds for the question before."""

    def __init__(self) -> None:
        """Compiles nothing yet."""
        everything = Mesh(np.asarray(jax.devices()), ("all",))
        self._rows = NamedSharding(everything, PartitionSpec("all"))
        self._sum = jax.jit(jnp.sum, out_shardings=NamedSharding(everything, PartitionSpec()))
        self._pending: jax.Array | None = None

    def any(self, flag: bool) -> bool:
        """Returns whether some process gave true the last time; every process gets the same answer."""
        if jax.process_count() == 1:
            return flag
        flags = np.full(jax.local_device_count(), flag, np.int32)
        asked, self._pending = self._pending, self._sum(jax.make_array_from_process_local_data(self._rows, flags))
        return asked is not None and int(asked) > 0


def _on_tpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and (not platforms or "tpu" in platforms) and importlib.util.find_spec("libtpu") is not None


def _give_up_after(seconds: float, what: str) -> threading.Event:
    over = threading.Event()

    def wait() -> None:
        if not over.wait(seconds):
            print(f"error: {what}; is each of them running, and is the address reachable?", file=sys.stderr, flush=True)
            os._exit(PEERS_MISSING)

    threading.Thread(target=wait, daemon=True, name="jaxtl-connect").start()
    return over


def _check_versions() -> None:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    own = " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    every = gather(f"{own} jaxtl {code.hexdigest()[:8]}")
    if len(set(every)) > 1:
        lines = [f"process {number}: {text}" for number, text in enumerate(every) if text not in every[:number]]
        raise UserError("\n".join(["the processes run different versions; install the same everywhere:", *lines]))
