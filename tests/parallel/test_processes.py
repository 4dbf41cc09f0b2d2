import threading
import time

from jax._src.distributed import global_state

from jaxtl.parallel import processes


def test_the_end_waits_for_the_listener_to_leave_the_client(monkeypatch):
    inside, calls = threading.Event(), []

    class Client:
        def key_value_dir_get(self, _):
            inside.set()
            time.sleep(0.3)
            calls.append("left")
            return []

    monkeypatch.setattr(global_state, "client", Client())
    over = threading.Event()
    listener = threading.Thread(target=processes._listen, args=(over,), daemon=True)
    listener.start()
    assert inside.wait(10)
    processes._stop_listening(listener, over)
    assert calls == ["left"]
    assert not listener.is_alive()
