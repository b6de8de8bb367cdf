#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What lookup says and does about wrong options, files, settings, requests and clients: precisely, and it lives on."""
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse

import service
from service import SLOW


def head_of(out):
    return out.split(b"\r\n", 1)[0].decode(errors="replace")


class Start(service.Case):
    def refused(self, *arguments, status, pattern, user=None, program=service.BINARY, **environment):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60 * SLOW,
                              user=user, env=service.clean_environment(environment), check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertRegex(done.stderr, pattern)
        self.assertEqual(done.stdout, "")
        said = [line for line in done.stderr.splitlines() if not re.match("lookup: (scanning|indexing)", line)]
        self.assertEqual(len(said), 1, done.stderr)

    def test_option_that_is_unknown_or_incomplete_is_named(self):
        for arguments, pattern in ((["--prot", "1"], r"--prot: unknown option; --help"),
                                   (["-x"], r"-x: unknown option"),
                                   (["corpus"], r'"corpus": lookup takes options only'),
                                   (["--port"], r"--port: N is missing"),
                                   (["--port", "http"], r'--port: "http" is not a whole number from 0 to 65535'),
                                   (["--port", "65536"], r"from 0 to 65535"),
                                   (["--port", "-1"], r"from 0 to 65535"),
                                   (["--port="], r"--port: \"\" is not a whole number"),
                                   (["--help=1"], r"--help takes no value"),
                                   (["--corpus", ""], r"--corpus: DIR is empty"),
                                   (["--connections", "0"], r"--connections: \"0\" is not a whole number from 1"),
                                   (["--client-timeout", "1e3"], r"--client-timeout:")):
            self.refused(*arguments, status=2, pattern=pattern)

    def test_data_dir_has_no_default_without_a_home(self):
        self.refused("--port", "0", status=2, pattern=r"give --data-dir", HOME="", XDG_CACHE_HOME="relative")

    def test_data_dir_that_is_the_default_is_made_with_its_parents(self):
        corpus = service.make_corpus(self.path("corpus"), 5)
        home, cache = self.path("home"), self.path("home/a/cache")
        os.mkdir(home)
        for environment, place in (({"HOME": home, "XDG_CACHE_HOME": ""}, home + "/.cache"),
                                   ({"HOME": home, "XDG_CACHE_HOME": cache}, cache)):
            process = subprocess.Popen([service.BINARY, "--port", "0", "--corpus", corpus], text=True,
                                       stdout=subprocess.PIPE, env=service.clean_environment(environment))
            self.assertIn("serving 5 documents", process.stdout.readline())
            process.terminate()
            process.communicate()
            self.assertEqual(process.returncode, 0)
            self.assertEqual(os.listdir(place), ["patinox-lookup"])
            self.assertEqual(os.stat(place).st_mode & 0o777, 0o700)
        self.write("file", "")
        self.refused("--port", "0", "--corpus", corpus, status=1, pattern=r"file: cannot make the directory: Not a directory",
                     HOME=home, XDG_CACHE_HOME=self.path("file/cache"))

    def test_host_that_is_wrong_is_named(self):
        data = ["--data-dir", self.path("data"), "--corpus", self.folder, "--port", "0"]
        self.refused("--host", "no.such.host.invalid", *data, status=1, pattern=r"--host no\.such\.host\.invalid: ")
        self.refused("--host", "192.0.2.1", *data, status=1, pattern=r"port 0 of 192\.0\.2\.1: Cannot assign")

    def test_port_that_is_busy_is_named_before_any_work(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            self.refused("--port", port, "--data-dir", self.path("data"), "--corpus", service.make_corpus(
                self.path("corpus"), 5), status=1, pattern=f"port {port} on 127.0.0.1 is in use by another program")
        self.assertFalse(os.path.exists(self.path("data")))

    def test_corpus_that_is_missing_or_no_directory_is_named(self):
        data = ["--data-dir", self.path("data"), "--port", "0"]
        self.refused("--corpus", self.path("nowhere"), *data, status=1, pattern=re.escape(self.path("nowhere")))
        self.refused("--corpus", self.write("file", "text"), *data, status=1, pattern=re.escape(self.path("file")))

    def test_corpus_that_is_unreadable_is_named(self):
        closed = self.path("closed")
        os.mkdir(closed)
        open_to_all = self.path("data")
        os.mkdir(open_to_all)
        os.chmod(self.folder, 0o755)
        os.chmod(closed, 0)
        os.chmod(open_to_all, 0o777)
        user = 65534 if os.geteuid() == 0 else None  # root may read everything
        program = shutil.copy(service.BINARY, self.path("lookup"))  # the tree may be closed to others: /root
        self.refused("--corpus", closed, "--data-dir", open_to_all, "--port", "0", status=1,
                     pattern=re.escape(closed), user=user, program=program)

    def test_corpus_without_any_text_is_refused(self):
        os.mkdir(self.path("empty"))
        self.refused("--corpus", self.path("empty"), "--data-dir", self.path("data"), "--port", "0", status=1,
                     pattern=r"(?i)empty|no text|nothing")

    def test_settings_that_are_wrong_name_line_and_field(self):
        for text, pattern in (('{"pool_max": 0}', r"line 1: .*pool_max"),
                              ('{\n"pool_max": "many"}', r"line 2: .*pool_max"),
                              ('{"poolmax": 1}', r"poolmax"), ("{", r"line 1"), ("[]", r"object"),
                              ('{"cache_ttl": "1 fortnight"}', r"cache_ttl")):
            self.refused("--config", self.write("config.json", text), "--data-dir", self.path("data"), "--port", "0",
                         status=2, pattern=pattern)
        self.refused("--config", self.path("missing.json"), "--data-dir", self.path("data"), "--port", "0", status=2,
                     pattern=r"missing\.json")

    def test_variables_that_are_wrong_are_named(self):
        for name, text, pattern in (("LOOKUP_POOL_MAX", "many", "must be a whole number"),
                                    ("LOOKUP_POOL_MAX", "1000", "1000 is not within 1 .. 64"),
                                    ("LOOKUP_CACHE_TTL", "", "must be a text such as"),
                                    ("LOOKUP_LOG_LEVEL", "loud", '"error", "warning"')):
            self.refused("--data-dir", self.path("data"), "--port", "0", status=2,
                         pattern=f"variable {name}: .*{pattern}", **{name: text})

    def test_data_dir_in_use_names_the_other_process(self):
        server = self.start(count=5)
        self.refused("--corpus", self.path("corpus"), "--data-dir", self.path("data"), "--port", "0", status=1,
                     pattern=str(server.process.pid))
        self.assertEqual(server.get("/health").status, 200)
        self.assert_clean_end(server)

    def test_binary_files_in_the_corpus_are_skipped(self):
        corpus = service.make_corpus(self.path("corpus"), 20)
        with open(f"{corpus}/noise.txt", "wb") as file:
            file.write(os.urandom(100000))
        with open(f"{corpus}/broken.txt.gz", "wb") as file:
            file.write(b"\x1f\x8b\x08\0" + os.urandom(1000))
        os.mkfifo(f"{corpus}/pipe")
        os.symlink("/dev/zero", f"{corpus}/endless.txt")
        os.symlink(".", f"{corpus}/loop")
        server = self.start(corpus=corpus)
        self.assertEqual(server.stats()["store"]["documents"], 20)
        self.assert_clean_end(server)

    def test_settings_that_become_wrong_change_nothing_and_are_reported(self):
        config = self.write("config.json", '{"pool_max": 3}')
        server = self.start(config=config, count=20)
        for number, (text, pattern) in enumerate((('{"pool_max": 3, ', r"config\.json.*line 1"),
                                                  ('{"pool_max": 1000}', r"config\.json.*pool_max"))):
            before = len(server.err)
            self.write("config.json", text)
            server.wait_log(pattern, since=before)
            self.assertEqual(server.stats()["pool"]["max"], 3, number)
        self.write("config.json", '{"pool_max": 4}')
        service.wait_for("the corrected settings", lambda: server.stats()["pool"]["max"] == 4)
        self.assert_clean_end(server)


class Requests(service.SharedCase):
    def tearDown(self):
        self.assertEqual(self.service.get("/health").status, 200, "it does not live on")

    def assert_error(self, answer, status, word, pattern):
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        body = answer.json()
        self.assertEqual(set(body), {"error", "message"})
        self.assertEqual(body["error"], word)
        self.assertRegex(body["message"], pattern)

    def test_search_arguments_that_are_wrong_are_named(self):
        for query, word, pattern in (("", "bad_request", r"q is missing"),
                                     ("limit=5", "bad_request", r"q is missing"),
                                     ("q=", "bad_request", r"."),
                                     ("q=%20%20", "bad_request", r"."),
                                     ("q=...", "bad_request", r"."),
                                     ("q=%zz", "bad_request", r"q is not well encoded"),
                                     ("q=a%2", "bad_request", r"q is not well encoded"),
                                     ("q=a%00b", "bad_request", r"%00 is not text"),
                                     ("q=%ff%fe", "bad_request", r"no word"),
                                     ("q=a&q=b", "bad_request", r"q is given twice"),
                                     ("q=a&limit=0", "bad_request", r"limit is not a whole number from 1 to 100"),
                                     ("q=a&limit=101", "bad_request", r"limit"),
                                     ("q=a&limit=-1", "bad_request", r"limit"),
                                     ("q=a&limit=", "bad_request", r"limit"),
                                     ("q=a&limit=1e1", "bad_request", r"limit"),
                                     ("q=a&limit=99999999999999999999999", "bad_request", r"limit"),
                                     ("q=a&limit=1&limit=2", "bad_request", r"limit is given twice"),
                                     ("q=a&offset=x", "bad_request", r"offset is not a whole number from 0 to 100000"),
                                     ("q=" + "a" * 600, "query_too_long", r"q is longer than 512 bytes")):
            self.assert_error(self.service.get("/search?" + query), 400, word, pattern)

    def test_search_takes_whatever_people_type(self):
        for text in ('"', '""', '"a', "a OR b", "AND", "NOT x", "NEAR(a b)", "a*", "*", "-a", "a:b", "title:x", "(a",
                     "'; DROP TABLE documents; --", "{a}", "^a", "a + b", "\t a \n", "😀 a", "a" * 512):
            status = self.service.get("/search?q=" + urllib.parse.quote(text)).status
            self.assertIn(status, (200, 400), text)
            if re.search(r"\w", text):
                self.assertEqual(status, 200, text)

    def test_paths_that_lead_elsewhere_are_not_found(self):
        for path in ("/..", "/../../etc/passwd", "/documents/../../../etc/passwd", "/documents/..%2f..%2fetc%2fpasswd",
                     "/%2e%2e/%2e%2e/etc/passwd", "/documents/%31", "/documents/1/", "/documents/1/../2", "//health",
                     "/health/", "/health%00", "/health%00.txt", "/HEALTH", "/documents/", "/documents", "/documents/-1",
                     "/documents/01", "/documents/1e3", "/documents/+1", "/documents/18446744073709551617",
                     "/documents/9223372036854775808", "/%", "/%zz", "/page.html", "/search/", "/./health", "/\\..\\x"):
            out = self.service.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            self.assertRegex(head_of(out), r"^HTTP/1.1 404 ", path)
            self.assertNotIn(b"root:", out)

    def test_methods_other_than_get_and_head_are_refused(self):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"):
            for path in ("/", "/search?q=a", "/documents/1", "/metrics", "/nothing"):
                answer = self.service.get(path, method=method)
                self.assertEqual(answer.headers["Allow"], "GET, HEAD")
                self.assert_error(answer, 405, "method_not_allowed", f"{method} is not supported")

    def test_body_is_refused_unread(self):
        for head in (b"Content-Length: 5", b"Content-Length: 99999999999", b"Transfer-Encoding: chunked"):
            for method, status in ((b"GET", 413), (b"POST", 405)):
                out = self.service.raw(method + b" /search?q=a HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\nhello")
                self.assertRegex(head_of(out), f"^HTTP/1.1 {status} ", head)

    def test_url_and_head_that_are_too_large_are_refused(self):
        for size, status in ((1900, 404), (2100, 414), (20000, 414), (200000, 414)):
            out = self.service.raw(b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.assertRegex(head_of(out), f"^HTTP/1.1 {status} ", size)
        for size, status in ((5000, 200), (9000, 431), (100000, 431)):
            out = self.service.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"a" * size +
                                   b"\r\n\r\n")
            self.assertRegex(head_of(out), f"^HTTP/1.1 {status} ", size)
        many = b"".join(b"X-%d: y\r\n" % n for n in range(3000))
        out = self.service.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
        self.assertRegex(head_of(out), "^HTTP/1.1 431 ")

    def test_request_that_is_not_http_is_refused(self):
        for data in (b"garbage\r\n\r\n", b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n",
                     b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"):
            out = self.service.raw(data)
            self.assertTrue(out == b"" or re.match(r"HTTP/1.1 (400|505) ", head_of(out)), out)
        out = self.service.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.assertRegex(head_of(out), "^HTTP/1.1 400 ")
        self.assertIn(b"no Host header", out)
        out = self.service.raw(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n")
        self.assertRegex(head_of(out), "^HTTP/1.1 (400|413) ")

    def test_clients_that_leave_early_do_no_harm(self):
        for cut in (b"", b"G", b"GET /search?q=ced", b"GET /search?q=cedar HTTP/1.1\r\nHost:",
                    b"GET /search?q=cedar+amber+grove HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"GET /documents/1 HTTP/1.1\r\nHost: x\r\n\r\n" * 20):
            for _ in range(5):
                with socket.create_connection((self.service.host, self.service.port)) as sock:
                    sock.sendall(cut)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end


class Limits(service.Case):
    def test_client_that_is_too_slow_is_dropped(self):
        server = self.start("--client-timeout", "1", count=20)
        begin = time.monotonic()
        silent = socket.create_connection((server.host, server.port))
        half = socket.create_connection((server.host, server.port))
        half.sendall(b"GET /health HTT")
        drip = socket.create_connection((server.host, server.port))
        drip.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")

        def drip_ended():
            # Each byte resets the clock of inactivity; the time for the whole request is what counts.
            try:
                drip.sendall(b"X")
                drip.setblocking(False)
                return drip.recv(100) == b""
            except BlockingIOError:
                drip.setblocking(True)
                return False
            except OSError:
                return True
        service.wait_for("the end of the dripping client", drip_ended, 10)
        for sock in (silent, half):
            sock.settimeout(10 * SLOW)
            self.assertEqual(sock.recv(1000), b"")
            sock.close()
        drip.close()
        self.assertGreater(time.monotonic() - begin, 0.9)
        self.assertEqual(server.get("/health").status, 200)
        self.assert_clean_end(server)

    def test_client_that_does_not_read_is_dropped(self):
        corpus = service.make_corpus(self.path("corpus"), 5)
        with open(f"{corpus}/large.txt", "w", encoding="utf-8") as file:
            file.writelines(f"line {n} of the enormous document\n" for n in range(400000))
        server = self.start("--client-timeout", "1", corpus=corpus)
        number = server.search("enormous").json()["results"][0]["id"]
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((server.host, server.port))
        lazy.sendall(f"GET /documents/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.assertTrue(lazy.recv(100).startswith(b"HTTP/1.1 200"))
        service.wait_for("the end of the lazy client", lambda: server.stats()["connections"] <= 1, 30)
        lazy.close()
        self.assert_clean_end(server)

    def test_client_that_only_listens_any_more_gets_all_of_it(self):
        corpus = service.make_corpus(self.path("corpus"), 5)
        with open(f"{corpus}/large.txt", "w", encoding="utf-8") as file:
            file.writelines(f"line {n} of the enormous document\n" for n in range(300000))
        server = self.start(corpus=corpus)
        number = server.search("enormous").json()["results"][0]["id"]
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((server.host, server.port))
            sock.sendall(f"GET /documents/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            sock.shutdown(socket.SHUT_WR)
            begin, out = time.monotonic(), b""
            while time.monotonic() < begin + 1:  # some rounds of the server's look for clients that have left
                out += sock.recv(4096)
            while chunk := sock.recv(1 << 20):
                out += chunk
        head, body = out.split(b"\r\n\r\n", 1)
        self.assertEqual(len(body), int(re.search(rb"Content-Length: (\d+)", head)[1]))
        self.assert_clean_end(server)

    def test_client_that_ends_with_half_a_request_is_let_go(self):
        server = self.start(count=20)
        socks = [socket.create_connection((server.host, server.port)) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"GET /search?q=cedar HTTP/1.1\r\nHost:")
            sock.shutdown(socket.SHUT_WR)
        service.wait_for("the ends", lambda: server.stats()["connections"] <= 1, 5)  # not only after --client-timeout
        for sock in socks:
            sock.close()
        self.assert_clean_end(server)

    def test_connections_over_the_limit_are_told_so(self):
        server = self.start("--connections", "4", count=20)
        held = [server.connect() for _ in range(4)]
        for connection in held:
            self.assertEqual(server.get("/health", connection=connection).status, 200)
        out = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertRegex(head_of(out), "^HTTP/1.1 503 ")
        self.assertIn(b"Retry-After: 1", out)
        self.assertIn(b"too many clients", out)
        held.pop().close()

        def served():
            return head_of(server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
                "HTTP/1.1 200")
        service.wait_for("a free place", served)
        for connection in held:
            connection.close()
        self.assert_clean_end(server)


if __name__ == "__main__":
    service.main()
