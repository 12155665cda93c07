# SPDX-License-Identifier: MIT
"""A web server of this machine, which answers ranges, and not always as it should."""

import contextlib
import http.server
import threading


@contextlib.contextmanager
def web_server(path, trouble=lambda number: None, seen=None):
    """Serves ranges of a file; its address. trouble(n) of the n-th GET: None, "error", or "short".

    seen: a list that gets (first, last) of each GET.
    """
    with open(path, "rb") as file:
        contents = file.read()
    numbers, lock = iter(range(1, 1 << 30)), threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, with_body):
            first, last = 0, len(contents) - 1
            given = self.headers.get("Range")
            if given:
                first, last = (int(part) for part in given.split("=")[1].split("-"))
                last = min(last, len(contents) - 1)
            with lock:
                word = trouble(next(numbers)) if with_body else None
                if with_body and seen is not None:
                    seen.append((first, last))
            if word == "error":
                self.send_error(503)
                return
            body = contents[first:last + 1]
            self.send_response(206 if given else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            if given:
                self.send_header("Content-Range", "bytes %d-%d/%d" % (first, last, len(contents)))
            self.end_headers()
            if with_body:
                self.wfile.write(body[:len(body) // 2] if word == "short" else body)
            if word == "short":
                self.close_connection = True

        def do_GET(self):
            self.answer(True)

        def do_HEAD(self):
            self.answer(False)

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # a client that has ended

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield "http://127.0.0.1:%d/image.qcow2" % server.server_port
        finally:
            server.shutdown()
            thread.join()
