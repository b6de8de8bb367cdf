# SPDX-License-Identifier: Apache-2.0
"""What the tests of lookup share: a corpus, a service that is started and stopped, and the record of results."""
import gzip
import http.client
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "harness"))
import results  # noqa: E402 - it stands there

BINARY = os.environ.get("LOOKUP_BINARY", "build/dev/examples/lookup/lookup")
SLOW = float(os.environ.get("LOOKUP_SLOW", "1"))  # builds with a sanitizer take longer
LONG = os.environ.get("PNX_TEST_LONG", "0") not in ("", "0")

WORDS = ("amber basin cedar delta ember fjord grove harbor island jungle kettle lantern meadow needle orchard "
         "pebble quarry ripple saddle timber umbrella valley willow yonder zephyr").split()


def wait_for(what, check, seconds=20):
    """Polls until check() is true; the condition itself is what is waited for."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds * SLOW:.0f} s")
        time.sleep(0.02)


def make_corpus(folder, count=300, seed=1):
    """Writes count text files, every tenth gzipped; document n holds the word "number<n>" (of 4 digits) and some of WORDS."""
    source = random.Random(seed)
    os.makedirs(folder, exist_ok=True)
    for n in range(count):
        words = [source.choice(WORDS) for _ in range(source.randrange(30, 300))]
        words.insert(len(words) // 2, f"number{n:04d}")
        lines = [" ".join(words[i:i + 12]) for i in range(0, len(words), 12)]
        text = (f"Document {n} about {words[0]}\n\n" + "\n".join(lines) + "\n").encode()
        path = os.path.join(folder, f"part{n % 7}", f"file{n}.txt")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if n % 10 == 3:
            with gzip.open(path + ".gz", "wb") as out:
                out.write(text)
        else:
            with open(path, "wb") as out:
                out.write(text)
    return folder


def clean_environment(more=None):
    """The environment without what would override settings: the tests' own names begin like that too."""
    return {**{name: text for name, text in os.environ.items() if not name.startswith("LOOKUP_")}, **(more or {})}


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Service:
    """A lookup of our own: started on a free port, ended by its process id."""

    def __init__(self, *arguments, corpus=None, data_dir=None, config=None, environment=None, user=None, wait=True):
        command = [BINARY, "--port", "0"]
        for name, value in (("--corpus", corpus), ("--data-dir", data_dir), ("--config", config)):
            command += [name, value] if value else []
        self.started = time.monotonic()
        self.process = subprocess.Popen(command + list(arguments), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=user,
                                        env=clean_environment(environment))
        self.out, self.err = [], []
        self.lines = queue.Queue()
        self.readers = [threading.Thread(target=self._read, args=pair, daemon=True)
                        for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for reader in self.readers:
            reader.start()
        self.host, self.port = "127.0.0.1", None
        if wait:
            self.wait_url()

    def _read(self, stream, lines):
        for line in stream:
            lines.append(line.decode(errors="replace").rstrip("\n"))
            self.lines.put(lines[-1])
        self.lines.put(None)

    def wait_url(self, seconds=60):
        def url():
            for line in list(self.out):
                found = re.search(r"http://([^ ]+):(\d+)/", line)
                if found:
                    return found
            if self.process.poll() is not None:
                for reader in self.readers:
                    reader.join()
                raise AssertionError(f"lookup ended with {self.process.returncode}: {self.err}")
            return None
        found = wait_for("the URL of the service", url, seconds)
        self.serving_after = time.monotonic() - self.started
        self.host, self.port = found[1], int(found[2])
        self.url = found[0]

    def wait_log(self, pattern, seconds=20, since=0):
        def found():
            for line in list(self.err)[since:]:
                if re.search(pattern, line):
                    return line
            return None
        return wait_for(f"a log line like {pattern!r} in {self.err[-5:]}", found, seconds)

    def connect(self, timeout=30):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout * SLOW)

    def get(self, path, method="GET", headers=None, connection=None):
        own = connection or self.connect()
        own.request(method, path, headers=headers or {})
        response = own.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        if not connection:
            own.close()
        return answer

    def search(self, text, **arguments):
        return self.get("/search?" + urllib.parse.urlencode({"q": text, **arguments}))

    def stats(self):
        return self.get("/stats.json").json()

    def raw(self, data, timeout=20):
        """Sends bytes as they are; returns all that comes back until the server closes."""
        with socket.create_connection((self.host, self.port), timeout * SLOW) as sock:
            try:
                sock.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all was sent: the answer may be there all the same
            out = b""
            try:
                while chunk := sock.recv(65536):
                    out += chunk
            except ConnectionResetError:
                pass
            return out

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def stop(self, number=signal.SIGTERM, seconds=40):
        """Ends the service; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds=40):
        try:
            self.process.wait(seconds * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"lookup did not end; it said {self.err[-5:]}") from None
        finally:
            for reader in self.readers:
                reader.join()
            self.process.stdout.close()
            self.process.stderr.close()
        return self.process.returncode


class Case(unittest.TestCase):
    """A test with a folder of its own, whose services are ended whatever happens."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="lookup-test-")
        self.services = []
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.addCleanup(self._end)

    def _end(self):
        for service in self.services:
            if service.process.poll() is None:
                service.process.kill()
                service.wait()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def start(self, *arguments, corpus=None, count=300, **options):
        if corpus is None:
            corpus = self.path("corpus")
            if not os.path.isdir(corpus):
                make_corpus(corpus, count)
        options.setdefault("data_dir", self.path("data"))
        service = Service(*arguments, corpus=corpus, **options)
        self.services.append(service)
        return service

    def assert_clean_end(self, service, status=0):
        self.assertEqual(service.stop(), status, service.err)
        for line in service.err:
            self.assertNotRegex(line, "Sanitizer|runtime error|leaked: [1-9]")


class SharedCase(Case):
    """Tests that read only share one service; it must end cleanly after the last of them."""

    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.shared_folder = tempfile.mkdtemp(prefix="lookup-test-")
        cls.addClassCleanup(shutil.rmtree, cls.shared_folder, ignore_errors=True)
        cls.corpus = make_corpus(os.path.join(cls.shared_folder, "corpus"))
        cls.service = Service(*cls.arguments, corpus=cls.corpus, data_dir=os.path.join(cls.shared_folder, "data"))
        cls.addClassCleanup(cls._end_shared)

    @classmethod
    def _end_shared(cls):
        status = cls.service.stop()
        if status != 0:
            raise AssertionError(f"the shared service ended with {status}: {cls.service.err}")


def main():
    results.main("lookup")
