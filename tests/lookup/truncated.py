#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The file of texts is cut, changed and removed under load: no crash, no wrong byte, precise errors, a new index."""
import collections
import glob
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time

from prometheus_client.openmetrics.parser import text_string_to_metric_families

import service
from service import LONG, SLOW

COUNT = 60  # small documents
LARGE = 12 << 20  # bytes of the large one: more than sockets hold on their way
CHUNK = 64 << 10  # what lookup sends at once
LARGE_IN_STORM = 20 * CHUNK
ROUNDS = 40 if LONG else 9
STALE = re.compile(r"the file of texts was cut or changed, or cannot be read \(.+\); the index is being built again")

# Another process: does what a line says to the file that it names, and answers with a line.
MUTATOR = """
import os, random, sys
source = random.Random(int(sys.argv[1]))
for line in sys.stdin:
    what, path = line.split()
    size = os.stat(path).st_size
    if what == "cut":
        os.truncate(path, source.randrange(size))
    elif what == "empty":
        os.truncate(path, 0)
    elif what == "cut_and_grow":
        os.truncate(path, source.randrange(size))
        os.truncate(path, size)
    elif what == "extend":
        with open(path, "ab") as file:
            file.write(b"x" * 10000)
    elif what == "rewrite":
        with open(path, "r+b") as file:
            for _ in range(50):
                file.seek(source.randrange(size - 5000))
                file.write(b"?" * 5000)
    elif what == "remove":
        os.unlink(path)
    elif what == "replace":
        with open(path + ".new", "wb") as file:
            file.write(b"#" * size)
        os.rename(path + ".new", path)
    elif what == "touch":
        os.utime(path)
    elif what == "storm":
        with open(path, "r+b") as file:
            for _ in range(200):
                os.ftruncate(file.fileno(), source.randrange(size))
                os.ftruncate(file.fileno(), size)
                file.seek(source.randrange(size - 5000))
                file.write(b"?" * 5000)
                file.flush()
    print(what, flush=True)
"""
MUTATIONS = ("cut", "rewrite", "storm", "remove", "extend", "empty", "replace", "cut_and_grow", "touch")


def small_text(n):
    lines = [f"line {i} of document {n}: {n * 1000003 + i * 7919:016x}" for i in range(20 + n * 3)]
    return (f"Checked document {n}\n" + f"number{n:04d} {service.WORDS[n % len(service.WORDS)]}\n" +
            "\n".join(lines) + "\n").encode()


def large_text(size):
    line = 64
    return b"".join(f"large line {i:08d} {i * 2654435761 % (1 << 64):020x}".ljust(line - 1).encode() + b"\n"
                    for i in range(size // line))


class Truncated(service.Case):
    def make(self, large=0):
        """Makes the corpus; self.texts has what each path holds."""
        self.texts = {f"doc{n:03d}.txt": small_text(n) for n in range(COUNT)}
        if large:
            self.texts["large.txt"] = large_text(large)
        os.makedirs(self.path("corpus"), exist_ok=True)
        for name, text in self.texts.items():
            with open(self.path("corpus/" + name), "wb") as file:
                file.write(text)
        # Paths are indexed in their order, so that ids are the same in each generation.
        self.ids = {n + 1: name for n, name in enumerate(sorted(self.texts))}
        return self.path("corpus")

    def texts_path(self):
        paths = [path for path in glob.glob(self.path("data/gen-*/texts")) if re.search(r"gen-\d+/texts$", path)]
        return max(paths, key=lambda path: int(re.search(r"gen-(\d+)/", path)[1]))

    def assert_stale(self, answer):
        self.assertEqual(answer.status, 503, answer.body)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Retry-After"], "1")
        body = answer.json()
        self.assertEqual(body["error"], "stale")
        self.assertRegex(body["message"], STALE)

    def assert_whole(self, answer, number):
        self.assertEqual(answer.status, 200, answer.body[:200])
        self.assertEqual(answer.body, self.texts[self.ids[number]])

    def wait_whole(self, server, number=1):
        """Asks until the document is served again."""
        def served():
            answer = server.get(f"/documents/{number}")
            if answer.status == 200:
                return answer
            self.assert_stale(answer)
            return None
        answer = service.wait_for("the new index", served)
        service.wait_for("the rebuild to be counted", lambda: server.stats()["store"]["rebuilds"] > 0)
        self.assert_whole(answer, number)
        return answer

    def metrics(self, server):
        families = text_string_to_metric_families(server.get("/metrics").body.decode())
        return {sample.name: sample.value for family in families for sample in family.samples
                if sample.name.startswith("lookup_") and not sample.labels}

    def test_lost_texts_are_503_what_needs_none_goes_on_and_a_new_index_serves(self):
        server = self.start(corpus=self.make())
        answer = server.get("/documents/1")
        self.assert_whole(answer, 1)
        old_etag = answer.headers["ETag"]
        self.assertEqual(server.search("cedar").status, 200)
        os.rename(self.path("corpus"), self.path("away"))  # the index cannot be built now
        os.truncate(self.texts_path(), 100)
        for number in self.ids:
            self.assert_stale(server.get(f"/documents/{number}"))
        for headers in ({"Range": "bytes=0-3"}, {"If-None-Match": old_etag}):
            self.assert_stale(server.get("/documents/2", headers=headers))
        self.assertEqual(server.get("/documents/2", method="HEAD").status, 503)
        self.assert_stale(server.search("number0007"))
        # Cached, and without a snippet.
        answer = server.search("cedar")
        self.assertEqual((answer.status, answer.json()["cached"]), (200, True))
        self.assertEqual(server.search("nosuchwordanywhere").json()["total"], 0)
        self.assertEqual(server.get("/documents/999").status, 404)
        self.assertEqual(server.get("/").status, 200)
        server.wait_log(r"the texts of gen-1 were cut or changed, or cannot be read: indexing again")
        server.wait_log(r"the index cannot be built again: .*corpus.*; next try in 1 s")
        health = server.get("/health")
        self.assertEqual((health.status, health.json()["status"]), (200, "degraded"))
        entry = next(entry for entry in health.json()["components"] if entry["kind"] == "store")
        self.assertEqual(entry["status"], "degraded")
        self.assertIn("gen-1", entry["reason"])
        stats = server.stats()["store"]
        self.assertEqual((stats["stale"], stats["rebuilds"]), (True, 0))
        self.assertGreaterEqual(stats["rebuild_failures"], 1)
        self.assertGreaterEqual(stats["stale_requests"], COUNT + 3)
        # One more document, and a corpus that is there again: the next try succeeds.
        os.rename(self.path("away"), self.path("corpus"))
        self.write("corpus/zz.txt", "One more document\nhippopotamus\n")
        answer = self.wait_whole(server)
        self.assertNotEqual(answer.headers["ETag"], old_etag)
        for number in self.ids:
            self.assert_whole(server.get(f"/documents/{number}"), number)
        self.assertEqual(server.search("hippopotamus").json()["results"][0]["id"], COUNT + 1)
        stats = server.stats()["store"]
        self.assertEqual((stats["stale"], stats["rebuilds"], stats["documents"]), (False, 1, COUNT + 1))
        self.assertEqual(server.get("/health").json()["status"], "ok")
        metrics = self.metrics(server)
        self.assertEqual(metrics["lookup_store_stale"], 0)
        self.assertEqual(metrics["lookup_store_rebuilds_total"], 1)
        self.assertGreaterEqual(metrics["lookup_store_rebuild_failures_total"], 1)
        self.assertGreaterEqual(metrics["lookup_store_stale_requests_total"], COUNT + 3)
        self.assertEqual(sorted(name for name in os.listdir(self.path("data")) if name.startswith("gen-")),
                         ["gen-1.bad", f"gen-{stats['generation']}"])
        self.assert_clean_end(server)

    def test_large_document_is_sent_by_chunks_and_its_connection_dropped_when_the_text_is_cut(self):
        server = self.start(corpus=self.make(large=LARGE))
        number = next(number for number, name in self.ids.items() if name == "large.txt")
        text = self.texts["large.txt"]
        self.assert_whole(server.get(f"/documents/{number}"), number)
        part = server.get(f"/documents/{number}", headers={"Range": f"bytes=1000-{1000 + 5 * CHUNK}"})
        self.assertEqual((part.status, part.body), (206, text[1000:1000 + 5 * CHUNK + 1]))
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.settimeout(30 * SLOW)
            sock.connect((server.host, server.port))
            sock.sendall(f"GET /documents/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            data = b""
            while b"\r\n\r\n" not in data or len(data) < 2 * CHUNK:
                data += sock.recv(65536)
            self.assertTrue(data.startswith(b"HTTP/1.1 200 "), data[:100])
            self.assertIn(f"Content-Length: {LARGE}".encode(), data)
            os.truncate(self.texts_path(), 4096)
            try:
                while chunk := sock.recv(1 << 20):
                    data += chunk
            except ConnectionResetError:
                pass
        body = data[data.index(b"\r\n\r\n") + 4:]
        self.assertLess(len(body), LARGE)
        self.assertEqual(body, text[:len(body)])
        service.wait_for("the document that ended early to be counted",
                         lambda: self.metrics(server)["lookup_http_documents_cut_total"] == 1)
        # The index is built again though nobody has asked for anything else.
        service.wait_for("the new index", lambda: server.stats()["store"]["rebuilds"] == 1)
        self.assert_whole(server.get(f"/documents/{number}"), number)
        self.assert_clean_end(server)

    def test_texts_that_were_only_touched_are_opened_again(self):
        server = self.start(corpus=self.make())
        os.utime(self.texts_path())
        self.assert_stale(server.get("/documents/3"))
        self.wait_whole(server, 3)
        stats = server.stats()["store"]
        self.assertEqual((stats["generation"], stats["rebuilds"], stats["rebuild_failures"]), (1, 1, 0))
        self.assertEqual(os.listdir(os.path.dirname(self.texts_path())).count("texts"), 1)
        self.assert_clean_end(server)

    def test_a_small_file_of_texts_was_copied_and_does_not_care(self):
        os.makedirs(self.path("corpus"))
        self.write("corpus/a.txt", "Alpha\nthe only document\n")
        server = self.start(corpus=self.path("corpus"))
        os.truncate(self.texts_path(), 0)
        self.assertEqual(server.get("/documents/1").body, b"Alpha\nthe only document\n")
        self.assertEqual(server.search("document").json()["total"], 1)
        self.assert_clean_end(server)

    def test_end_while_the_index_is_built_again_is_clean_and_the_next_start_serves(self):
        server = self.start(corpus=self.make(large=4 << 20))
        os.truncate(self.texts_path(), 100)
        self.assert_stale(server.get("/documents/1"))
        self.assert_clean_end(server)
        again = self.start(corpus=self.path("corpus"))
        for number in self.ids:
            self.assert_whole(again.get(f"/documents/{number}"), number)
        self.assert_clean_end(again)


class Client(threading.Thread):
    """Asks for anything until told to stop; checks every byte of every answer."""

    def __init__(self, case, server, seed):
        super().__init__(daemon=True)
        self.case, self.server, self.random = case, server, random.Random(seed)
        self.end = threading.Event()
        self.statuses = collections.Counter()
        self.cut = 0
        self.wrong = []

    def document(self, connection):
        number = self.random.randrange(1, len(self.case.ids) + 1)
        if self.random.random() < 0.1:
            number = len(self.case.ids)  # the large one
        text, headers, expected = self.case.texts[self.case.ids[number]], {}, 200
        if self.random.random() < 0.3:
            first = self.random.randrange(len(text))
            text = text[first:first + self.random.randrange(1, 3 * CHUNK)]
            headers, expected = {"Range": f"bytes={first}-{first + len(text) - 1}"}, 206
        connection.request("GET", f"/documents/{number}", headers=headers)
        response = connection.getresponse()
        try:
            body = response.read()
        except http.client.IncompleteRead as error:
            self.cut += 1
            connection.close()
            if response.status != expected or len(text) <= CHUNK or error.partial != text[:len(error.partial)]:
                self.wrong.append(("cut", number, response.status, len(error.partial), len(text)))
            return
        self.statuses["document", response.status] += 1
        if response.status == 503:
            self.case.assert_stale(service.Answer(503, response.headers, body))
        elif response.status != expected or body != text:
            self.wrong.append((number, response.status, headers, body[:100]))

    def search(self, connection):
        number = self.random.randrange(COUNT)
        answer = self.server.get(f"/search?q=number{number:04d}", connection=connection)
        self.statuses["search", answer.status] += 1
        if answer.status == 503:
            self.case.assert_stale(answer)
            return
        result = answer.json()["results"][0]
        if result["id"] != number + 1 or f"number{number:04d}" not in result["snippet"]:
            self.wrong.append(result)

    def run(self):
        connection = self.server.connect()
        try:
            while not self.end.is_set():
                kind = self.random.random()
                if kind < 0.7:
                    self.document(connection)
                elif kind < 0.9:
                    self.search(connection)
                else:
                    answer = self.server.get(self.random.choice(("/health", "/metrics", "/")), connection=connection)
                    self.statuses["other", answer.status] += 1
        except Exception as error:  # pylint: disable=broad-except
            self.wrong.append(repr(error))
        finally:
            connection.close()


class Storm(Truncated):
    # Only the storm: the tests above are run once.
    for _name in [name for name in dir(Truncated) if name.startswith("test_")]:
        locals()[_name] = None

    def test_storm_of_cuts_under_load_gives_right_bytes_or_503(self):
        server = self.start(corpus=self.make(large=LARGE_IN_STORM))
        seed = int(os.environ.get("SEED", time.time_ns() % 1000000))
        print(f"seed {seed}", flush=True)
        clients = [Client(self, server, seed + n) for n in range(4)]
        with subprocess.Popen([sys.executable, "-c", MUTATOR, str(seed)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as mutator:
            for client in clients:
                client.start()
            for n in range(ROUNDS):
                before = server.stats()["store"]["rebuilds"]
                what = MUTATIONS[n % len(MUTATIONS)]
                mutator.stdin.write(f"{what} {self.texts_path()}\n")
                mutator.stdin.flush()
                self.assertEqual(mutator.stdout.readline().strip(), what)
                # The load finds it: nobody else asks for the new index.
                service.wait_for(f"the index after {what} ({server.err[-5:]}, {[c.wrong for c in clients]})",
                                 lambda before=before: server.stats()["store"]["rebuilds"] > before, 60)
            mutator.stdin.close()
        for client in clients:
            client.end.set()
        for client in clients:
            client.join(60 * SLOW)
            self.assertEqual(client.wrong, [], f"seed {seed}")
        statuses = sum((client.statuses for client in clients), collections.Counter())
        print(dict(statuses), "cut", sum(client.cut for client in clients), flush=True)
        self.assertEqual({status for kind, status in statuses if kind == "document"} - {200, 206, 503}, set())
        self.assertEqual({status for kind, status in statuses if kind == "search"} - {200, 503}, set())
        self.assertEqual({status for kind, status in statuses if kind == "other"}, {200})
        self.assertGreater(statuses["document", 503], 0)
        self.assertGreater(statuses["document", 200], COUNT // 4)  # a sanitizer is slow
        for number in self.ids:
            self.wait_whole(server, number)
        metrics = self.metrics(server)
        self.assertGreaterEqual(metrics["lookup_store_rebuilds_total"], ROUNDS)
        self.assertGreaterEqual(metrics["lookup_http_documents_cut_total"], sum(client.cut for client in clients))
        self.assertGreaterEqual(metrics["lookup_store_stale_requests_total"], statuses["document", 503])
        self.assert_clean_end(server)


if __name__ == "__main__":
    service.main()
