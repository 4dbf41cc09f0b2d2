"""A server on this machine under load, beside the predictor that it serves: images a second, and waiting.

    python tests/benchmarks/serving.py RUN FOLDER [--batch 8] [--clients 24] [--images 200] [--latency_ms 4000]

`serve` runs in a process of its own; clients ask for one photograph after the other, each over a connection of its own.
The predictor gets the same bytes as one list, in this process, before and after it. What is told to come again (503)
is counted, and asked again. Measured with DeiT-Tiny and a bound of 2 s on two cores, three rounds of 480 images:
batches of 8 and 24 clients 0.95 times the predictor's rate (0.91 to 0.99), 99 % of the requests within 549, 675 and
590 ms; batches of 32 and 48 clients 0.97 times (0.94 to 0.98), within 1,285, 1,248 and 1,155 ms; none was told to
come again.
"""

import argparse
import asyncio
import itertools
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jaxtl


def own_rate(predictor, photographs: list[bytes]) -> float:
    """Returns images a second of the predictor alone."""
    began = time.perf_counter()
    assert len(predictor(photographs)) == len(photographs)
    return len(photographs) / (time.perf_counter() - began)


async def ask(port: int, waiting, took: list[float], statuses: list[int]) -> None:
    """Asks for one photograph after the other over one connection, until there is none left."""
    reader, writer = None, None
    for photograph in waiting:
        status, began = 503, time.perf_counter()
        while status == 503:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            writer.write(f"{head}Content-Length: {len(photograph)}\r\n\r\n".encode() + photograph)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", answer)[1]))
            statuses.append(status)
            if status == 503:
                writer.close()
                writer = None
                await asyncio.sleep(0.05)
                began = time.perf_counter()
        took.append(time.perf_counter() - began)
    if writer is not None:
        writer.close()


async def load(port: int, photographs: list[bytes], clients: int) -> tuple[float, list[float], list[int]]:
    """Returns images a second under load, the seconds of each, and the statuses."""
    waiting, took, statuses = iter(photographs), list[float](), list[int]()
    began = time.perf_counter()
    await asyncio.gather(*(ask(port, waiting, took, statuses) for _ in range(clients)))
    return len(photographs) / (time.perf_counter() - began), took, statuses


def main() -> None:
    """Prints the rates of both, their ratio, and how long requests took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    for name, value in (("batch", 8), ("clients", 24), ("images", 200), ("latency_ms", 4000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.rglob("*.jpg"))
    photographs = [path.read_bytes() for path in itertools.islice(itertools.cycle(files), arguments.images)]
    predictor = jaxtl.load(arguments.run, batch_size=arguments.batch)
    predictor.warm_up()
    flags = [f"--workdir={arguments.run}", "--port=0", f"--batch_size={arguments.batch}"]
    command = [sys.executable, "-m", "jaxtl.main", "serve", *flags, f"--latency_ms={arguments.latency_ms}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = next(int(found[1]) for line in server.stdout if (found := re.match(r"ready: http://[^:]*:(\d+)", line)))
        asyncio.run(load(port, photographs[: 2 * arguments.clients], arguments.clients))
        ratios = []
        for _ in range(arguments.rounds):
            before = own_rate(predictor, photographs)
            rate, took, statuses = asyncio.run(load(port, photographs, arguments.clients))
            own = (before + own_rate(predictor, photographs)) / 2
            ratios.append(rate / own)
            cuts = statistics.quantiles(took, n=100)
            again = {status: statuses.count(status) for status in set(statuses)}
            print(
                f"predictor {own:.1f} images/s, server {rate:.1f}, ratio {rate / own:.2f}; requests took "
                f"{1e3 * cuts[49]:.0f} ms (median), {1e3 * cuts[98]:.0f} ms (99 %); statuses {again}",
                flush=True,
            )
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
