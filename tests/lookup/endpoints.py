#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of lookup, as a client sees it."""
import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import threading
import time

from prometheus_client.openmetrics.parser import text_string_to_metric_families

import service
from service import SLOW


class Search(service.SharedCase):
    def test_search_answers_with_the_documents_that_match(self):
        answer = self.service.search("number0042")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        body = answer.json()
        self.assertEqual(list(body), ["query", "total", "took_us", "cached", "results"])
        self.assertEqual(body["query"], "number0042")
        self.assertEqual(body["total"], 1)
        self.assertIsInstance(body["took_us"], int)
        result = body["results"][0]
        self.assertEqual(set(result), {"id", "title", "path", "snippet", "marks"})
        self.assertTrue(result["path"].endswith("file42.txt"))
        self.assertIn("Document 42", result["title"])
        self.assertIn("number0042", result["snippet"])
        self.assertEqual([result["snippet"][first:behind] for first, behind in result["marks"]], ["number0042"])
        self.assertTrue(result["snippet"].isprintable())

    def test_search_repeated_is_cached_with_the_same_results(self):
        first = self.service.search("cedar lantern").json()
        second = self.service.search("cedar lantern").json()
        self.assertFalse(first["cached"])
        self.assertTrue(second["cached"])
        self.assertEqual(first["results"], second["results"])
        self.assertEqual(first["total"], second["total"])

    def test_search_pages_do_not_overlap_and_cover_the_total(self):
        total = self.service.search("cedar", limit=1).json()["total"]
        self.assertGreater(total, 100)
        seen = []
        for offset in range(0, total, 70):
            results = self.service.search("cedar", limit=70, offset=offset).json()["results"]
            seen += [result["id"] for result in results]
        self.assertEqual(len(seen), total)
        self.assertEqual(len(set(seen)), total)
        self.assertEqual(self.service.search("cedar", offset=total).json()["results"], [])

    def test_search_that_finds_nothing_is_an_empty_list(self):
        body = self.service.search("nosuchwordanywhere").json()
        self.assertEqual((body["total"], body["results"]), (0, []))

    def test_search_query_is_returned_as_it_was_asked(self):
        for text in ('"cedar', "c++ & d", "a\\b \"quoted\" 100%", "größe 木", "<b>cedar</b>"):
            answer = self.service.search(text)
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(answer.json()["query"], text)

    def test_search_identical_and_concurrent_reads_the_database_once(self):
        before = self.service.stats()["store"]["database_reads"]
        gate = threading.Barrier(16)
        bodies = []

        def ask():
            connection = self.service.connect()
            connection.connect()
            gate.wait()
            bodies.append(self.service.get("/search?q=willow+zephyr+amber", connection=connection).json())
            connection.close()
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(bodies), 16)
        self.assertTrue(all(body["results"] == bodies[0]["results"] for body in bodies))
        self.assertEqual(self.service.stats()["store"]["database_reads"] - before, 1)

    def test_head_of_a_search_has_no_body(self):
        answer = self.service.get("/search?q=cedar", method="HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["Content-Length"]), 50)


class Documents(service.SharedCase):
    def setUp(self):
        super().setUp()
        result = self.service.search("number0042").json()["results"][0]
        self.document = f"/documents/{result['id']}"
        with open(f"{self.corpus}/part0/file42.txt", "rb") as file:
            self.text = file.read()

    def get(self, **headers):
        return self.service.get(self.document, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def test_document_is_the_text_of_the_file(self):
        answer = self.get()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(answer.headers["Accept-Ranges"], "bytes")
        self.assertEqual(answer.body.strip(), self.text.strip())

    def test_document_of_a_gzip_file_is_its_decompressed_text(self):
        result = self.service.search("number0043").json()["results"][0]
        self.assertTrue(result["path"].endswith(".gz"))
        self.assertIn(b"number0043", self.service.get(f"/documents/{result['id']}").body)

    def test_document_etag_is_strong_and_spares_the_body(self):
        etag = self.get().headers["ETag"]
        self.assertRegex(etag, r'^"[^"]+"$')
        for value in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            answer = self.get(If_None_Match=value)
            self.assertEqual((answer.status, answer.body, answer.headers["ETag"]), (304, b"", etag), value)
            # RFC 9110, 8.6: it may be absent, but not differ from that of the 200.
            self.assertIn(answer.headers.get("Content-Length"), (None, self.get().headers["Content-Length"]))
        for value in ('"other"', etag.strip('"'), ""):
            self.assertEqual(self.get(If_None_Match=value).status, 200, value)

    def test_document_range_is_a_part_of_it(self):
        whole = self.get().body
        size = len(whole)
        for value, first, last in (("bytes=0-9", 0, 9), ("bytes=5-5", 5, 5), ("bytes=10-", 10, size - 1),
                                   ("bytes=-7", size - 7, size - 1), ("bytes=0-999999", 0, size - 1),
                                   (f"bytes=-{size + 10}", 0, size - 1), ("Bytes=1-2", 1, 2),
                                   ("bytes=3-99999999999999999999999", 3, size - 1)):
            answer = self.get(Range=value)
            self.assertEqual(answer.status, 206, value)
            self.assertEqual(answer.headers["Content-Range"], f"bytes {first}-{last}/{size}", value)
            self.assertEqual(answer.body, whole[first:last + 1], value)

    def test_document_range_outside_is_416_with_the_size(self):
        size = len(self.get().body)
        for value in (f"bytes={size}-", f"bytes={size}-{size + 5}", "bytes=-0", "bytes=99999999999999999999999-"):
            answer = self.get(Range=value)
            self.assertEqual(answer.status, 416, value)
            self.assertEqual(answer.headers["Content-Range"], f"bytes */{size}", value)

    def test_document_range_that_is_malformed_or_several_gives_all_of_it(self):
        whole = self.get().body
        for value in ("bytes=5-3", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2,5-6", "lines=1-2", "bytes 1-2",
                      "bytes=1-2x", "bytes=+1-2", "bytes=1--2"):
            answer = self.get(Range=value)
            self.assertEqual((answer.status, answer.body), (200, whole), value)

    def test_document_range_counts_only_if_if_range_holds(self):
        etag = self.get().headers["ETag"]
        self.assertEqual(self.get(Range="bytes=0-1", If_Range=etag).status, 206)
        self.assertEqual(self.get(Range="bytes=0-1", If_Range='"older"').status, 200)
        self.assertEqual(self.get(Range="bytes=0-1", If_Range="W/" + etag).status, 200)
        self.assertEqual(self.get(Range="bytes=0-1", If_Range="Sun, 22 Nov 2026 00:00:00 GMT").status, 200)

    def test_document_head_tells_the_size_and_ignores_ranges(self):
        answer = self.service.get(self.document, method="HEAD", headers={"Range": "bytes=0-3"})
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(int(answer.headers["Content-Length"]), len(self.get().body))

    def test_document_that_does_not_exist_is_404(self):
        for number in ("0", "999999", "9223372036854775807"):
            answer = self.service.get(f"/documents/{number}")
            self.assertEqual(answer.status, 404, number)
            self.assertEqual(answer.json()["message"], f"there is no document {number}")


class Numbers(service.SharedCase):
    def families(self):
        answer = self.service.get("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"],
                         "application/openmetrics-text; version=1.0.0; charset=utf-8")
        text = answer.body.decode()
        self.assertTrue(text.endswith("# EOF\n"))
        self.assertEqual(text.count("# EOF"), 1)
        return {family.name: family for family in text_string_to_metric_families(text)}

    def test_metrics_are_openmetrics_and_know_every_part(self):
        self.service.search("cedar")
        families = self.families()
        for prefix in ("patinox_pool_", "patinox_cache_", "patinox_budget_", "patinox_registry_", "lookup_http_"):
            self.assertTrue(any(name.startswith(prefix) for name in families), prefix)

    def test_metrics_count_requests_and_their_time(self):
        def count():
            families = self.families()
            requests = {(s.labels["route"], s.labels["code"]): s.value
                        for s in families["lookup_http_requests"].samples}
            times = [s.value for s in families["lookup_http_request_seconds"].samples
                     if s.name.endswith("_count") and s.labels["group"] == "search"]
            return requests.get(("search", "200"), 0), requests.get(("none", "404"), 0), times[0]
        before = count()
        for _ in range(5):
            self.service.search("cedar")
        self.service.get("/nothing")
        after = service.wait_for("the counts", lambda: (now := count())[0] >= before[0] + 5 and now)
        self.assertEqual([b - a for a, b in zip(before, after)], [5, 1, 5])

    def test_health_is_ok_and_names_the_components(self):
        answer = self.service.get("/health")
        self.assertEqual(answer.status, 200)
        body = answer.json()
        self.assertEqual(body["status"], "ok")
        self.assertTrue({"pool", "cache"} <= {entry["kind"] for entry in body["components"]})
        self.assertTrue(all(entry["status"] == "ok" for entry in body["components"]))

    def test_stats_have_all_that_the_page_plots(self):
        stats = self.service.stats()
        self.assertEqual(stats["store"]["documents"], 300)
        self.assertEqual(len(stats["latency"]["search"]), len(stats["latency"]["bounds_us"]) + 1)
        for part, names in (("pool", ("in_use", "waiting", "max")), ("cache", ("hits", "misses", "negative_hits", "bytes", "capacity")),
                            ("budget", ("used", "hard"))):
            for name in names:
                self.assertIsInstance(stats[part][name], int, f"{part}.{name}")


class Page(service.SharedCase):
    def test_page_is_one_file_that_its_policy_allows(self):
        answer = self.service.get("/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        text, policy = answer.body.decode(), answer.headers["Content-Security-Policy"]
        for tag in ("style", "script"):
            inner = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
            digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
            self.assertIn(f"{tag}-src 'sha256-{digest}'", policy)
        self.assertIn("default-src 'none'", policy)
        self.assertEqual(re.findall(r'(?:src|href)="(?!/|#|data:)[^"]*"', text), [], "something from elsewhere")
        self.assertEqual(answer.headers["X-Frame-Options"], "DENY")

    def test_page_is_not_sent_twice(self):
        etag = self.service.get("/").headers["ETag"]
        self.assertEqual(self.service.get("/", headers={"If-None-Match": etag}).status, 304)

    def test_icon_is_there(self):
        self.assertEqual(self.service.get("/favicon.ico").headers["Content-Type"], "image/svg+xml")

    def test_constant_is_not_there_unless_asked_for(self):
        self.assertEqual(self.service.get("/bench/constant").status, 404)


class Connections(service.SharedCase):
    def test_connection_serves_many_requests(self):
        connection = self.service.connect()
        connection.connect()
        local = connection.sock.getsockname()
        for n in range(30):
            self.assertEqual(self.service.get(f"/search?q=cedar&offset={n % 3}", connection=connection).status, 200)
            self.assertEqual(connection.sock.getsockname(), local)
        connection.close()

    def test_pipelined_requests_are_answered_in_order(self):
        out = self.service.raw(b"".join(
            f"GET /search?q=number{n:04d} HTTP/1.1\r\nHost: x\r\n{'Connection: close' if n == 9 else 'A: b'}\r\n\r\n".encode()
            for n in range(10)))
        self.assertEqual(re.findall(rb'"query":"number(\d+)"', out), [b"%04d" % n for n in range(10)])

    def test_absolute_form_of_the_url_is_understood(self):
        out = self.service.raw(b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertTrue(out.startswith(b"HTTP/1.1 200"), out)

    def test_old_http_is_answered(self):
        out = self.service.raw(b"GET /search?q=cedar HTTP/1.0\r\n\r\n")
        self.assertRegex(out, rb"^HTTP/1\.[01] 200 ")
        json.loads(out.split(b"\r\n\r\n", 1)[1])


class Life(service.Case):
    def test_second_start_serves_within_three_seconds_without_indexing(self):
        first = self.start()
        self.assertTrue(any("index" in line for line in first.err), first.err)
        self.assert_clean_end(first)
        second = self.start()
        self.assertLess(second.serving_after, 3 * SLOW)
        self.assertFalse(any("indexing:" in line for line in second.err), second.err)
        self.assertEqual(second.search("number0007").json()["total"], 1)
        self.assert_clean_end(second)

    def test_answers_outlive_a_restart_over_the_same_index(self):
        first = self.start()
        found = {text: first.search(text).json()["results"] for text in ("cedar", "number0007", "amber willow")}
        first.search("cedar")
        self.assert_clean_end(first)
        self.assertTrue(any("3 answers are saved" in line for line in first.err), first.err)
        second = self.start()
        self.assertTrue(any("3 answers of the last run are in the cache" in line for line in second.err), second.err)
        reads = second.stats()["store"]["database_reads"]
        for text, results in found.items():
            answer = second.search(text).json()
            self.assertTrue(answer["cached"], text)
            self.assertEqual(answer["results"], results)
        self.assertEqual(second.stats()["store"]["database_reads"], reads)
        self.assert_clean_end(second)

    def test_answers_of_another_index_or_a_damaged_file_are_not_served(self):
        first = self.start()
        self.assertEqual(first.search("number0007").json()["total"], 1)
        self.assert_clean_end(first)
        with open(self.path("corpus/part0/more.txt"), "w", encoding="ascii") as out:
            out.write("another document with number0007 in it\n")
        second = self.start()
        self.assertTrue(any("begins empty" in line and "another label" in line for line in second.err), second.err)
        answer = second.search("number0007").json()
        self.assertFalse(answer["cached"])
        self.assertEqual(answer["total"], 2)
        self.assert_clean_end(second)
        path = self.path("data/answers.cache")
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        with open(path + ".0123456789abcdef.tmp", "wb") as file:
            file.write(b"what a save that was killed has left")
        third = self.start()
        self.assertTrue(any("begins empty" in line and "cut short" in line for line in third.err), third.err)
        self.assertFalse(third.search("number0007").json()["cached"])
        self.assert_clean_end(third)
        self.assertEqual([name for name in os.listdir(self.path("data")) if name.endswith(".tmp")], [])

    def connections(self, server):
        """Searches from several threads until there are two connections or more; returns how many there are."""
        numbers = iter(range(100000))

        def search_at_once():
            threads = [threading.Thread(target=server.search, args=(f"cedar number{next(numbers):04d}",))
                       for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return resting() >= 2

        def resting():
            pool = server.stats()["pool"]
            return 0 if pool["connecting"] or pool["waiting"] or pool["in_use"] else pool["idle"]
        service.wait_for("a second connection", search_at_once)
        return service.wait_for("all connections at rest", resting)

    def test_end_prints_the_report_and_exits_with_0(self):
        for number in (15, 2):  # SIGTERM, SIGINT
            server = self.start()
            connections = self.connections(server)
            self.assertEqual(server.stop(number), 0, server.err)
            # What there was, each by type and name, with its state: no row is lost, and none is there for no reason.
            expected = {(type, "lookup"): ("done", 1) for type in (
                "budget", "cache", "config", "executor", "http server", "pool", "snapshot", "sqlite source")}
            expected["connection", "lookup"] = ("done", connections)
            expected["executor", "index"] = ("done", 1)
            expected["executor", "refresh"] = ("done", 1)
            expected["lookup store", self.path("data")] = ("done", 1)
            expected["mapping", "texts"] = ("done", 1)
            expected["watch", "settings"] = ("done", 1)
            rows = {}
            for line in server.out:
                row = re.fullmatch(r'  (\w+) +(\d+) x (.+?) at .*?: "([^"]*)".*', line)
                if row:
                    self.assertNotIn((row[3], row[4]), rows, line)
                    rows[row[3], row[4]] = (row[1], int(row[2]))
            self.assertEqual(rows, expected, server.out)
            total = sum(count for _, count in expected.values())
            self.assertRegex("\n".join(server.out), rf"shutdown of registry default: {total} done, 0 failed, "
                             "0 abandoned, 0 leaked, 0 suppressed")

    def test_end_lets_requests_finish_and_refuses_new_ones(self):
        server = self.start()
        # Half a request is not a request: it does not hold up the end.
        half = socket.create_connection((server.host, server.port))
        half.sendall(b"GET /search?q=ce")
        idle = server.connect()
        self.assertEqual(server.get("/health", connection=idle).status, 200)
        begin = time.monotonic()
        self.assert_clean_end(server)
        self.assertLess(time.monotonic() - begin, 8 * SLOW)
        with self.assertRaises(OSError):
            socket.create_connection((server.host, server.port), 5)
        self.assertIn(half.recv(100), (b"",))
        half.close()
        idle.close()

    def test_signal_while_indexing_ends_cleanly_and_the_next_start_recovers(self):
        corpus = service.make_corpus(self.path("corpus"), 6000 if SLOW == 1 else 2000)
        server = self.start(corpus=corpus, wait=False)
        server.wait_log("scanning|indexing")
        status = server.stop()
        self.assertEqual(status, 0, server.err)
        self.assertFalse(any("serving" in line for line in server.out), "too fast to be stopped")
        again = self.start(corpus=corpus)
        self.assertEqual(again.search("number0077").json()["total"], 1)
        self.assert_clean_end(again)

    def test_settings_are_reloaded_when_the_file_changes(self):
        config = self.write("config.json", '{"pool_max": 2}')
        server = self.start(config=config)
        self.assertEqual(server.stats()["pool"]["max"], 2)
        self.write("config.json", '{"pool_max": 5, "cache_bytes": "1MiB"}')
        service.wait_for("the new settings", lambda: server.stats()["pool"]["max"] == 5)
        self.assertEqual(server.stats()["cache"]["capacity"], 1 << 20)
        self.assert_clean_end(server)

    def test_variables_override_the_file_and_stay_over_it(self):
        config = self.write("config.json", '{"pool_max": 2, "log_level": "debug"}')
        server = self.start(config=config, environment={"LOOKUP_POOL_MAX": "3", "LOOKUP_SERVICE_HOST": "10.0.0.1"})
        server.wait_log(r"1 variables name no setting and are ignored: LOOKUP_SERVICE_HOST")
        stats = server.stats()
        self.assertEqual(stats["pool"]["max"], 3)
        self.assertEqual(stats["settings"], {"version": 1, "overrides": 1, "ignored": 1, "held": "", "error": ""})
        self.write("config.json", '{"pool_max": 5, "cache_bytes": "1MiB", "log_level": "debug"}')
        service.wait_for("the new settings", lambda: server.stats()["cache"]["capacity"] == 1 << 20)
        self.assertEqual(server.stats()["pool"]["max"], 3)
        server.wait_log(r"event config_changed of lookup, file: 2")
        self.assert_clean_end(server)

    def test_answers_are_asked_for_anew_while_the_old_ones_are_served(self):
        server = self.start(environment={"LOOKUP_CACHE_REFRESH": "1ms"})
        server.search("cedar")

        def counts():
            families = {family.name: family for family in
                        text_string_to_metric_families(server.get("/metrics").body.decode())}
            return [families["patinox_cache_" + name].samples[0].value for name in ("refreshes", "stale_hits", "misses")]

        def refreshed():
            self.assertTrue(server.search("cedar").json()["cached"])  # whatever runs in the background
            return counts()[0] > 0
        service.wait_for("a refresh", refreshed)
        _, stale, misses = counts()
        self.assertGreater(stale, 0)
        self.assertEqual(misses, 1)
        self.assert_clean_end(server)

    def test_a_search_that_finds_nothing_is_remembered_until_its_time_has_passed(self):
        config = self.write("config.json", '{"cache_negative_ttl": "1h"}')
        server = self.start(config=config)

        def negative_hits():
            families = {family.name: family for family in
                        text_string_to_metric_families(server.get("/metrics").body.decode())}
            return families["patinox_cache_negative_hits"].samples[0].value
        for cached in (False, True, True):
            body = server.search("unicorn").json()
            self.assertEqual((body["total"], body["results"], body["cached"]), (0, [], cached))
        stats = server.stats()
        self.assertEqual(stats["store"]["database_reads"], 1)
        self.assertEqual(stats["cache"]["negative_hits"], 2)
        self.assertEqual(negative_hits(), 2)
        self.write("config.json", '{"cache_negative_ttl": "1ms", "pool_max": 3}')
        service.wait_for("the new settings", lambda: server.stats()["pool"]["max"] == 3)
        self.assertTrue(server.search("unicorn").json()["cached"])  # its time was set when it was asked

        def asked_again():
            self.assertEqual(server.search("griffin").json()["total"], 0)
            return server.stats()["store"]["database_reads"] >= 3
        service.wait_for("a second question to the database", asked_again)
        self.assert_clean_end(server)

    def test_variables_count_without_a_file_too(self):
        server = self.start(environment={"LOOKUP_CACHE_BYTES": "2MiB", "LOOKUP_CACHE_TTL": "never"})
        self.assertEqual(server.stats()["cache"]["capacity"], 2 << 20)
        self.assertEqual(server.stats()["settings"]["overrides"], 2)
        self.assert_clean_end(server)

    def test_the_settings_before_come_back_and_stay_until_the_file_changes(self):
        config = self.write("config.json", '{"pool_max": 2}')
        server = self.start(config=config)
        server.process.send_signal(signal.SIGUSR1)
        server.wait_log(r"no version before is kept")
        self.write("config.json", '{"pool_max": 5}')
        service.wait_for("the new settings", lambda: server.stats()["pool"]["max"] == 5)
        server.process.send_signal(signal.SIGUSR1)
        service.wait_for("those before", lambda: server.stats()["pool"]["max"] == 2)
        self.assertEqual(server.stats()["settings"]["held"], "rolled back")
        self.assertEqual(server.get("/health").json()["status"], "degraded")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log(r"this text was rolled back, and is held")
        self.assertEqual(server.stats()["pool"]["max"], 2)
        self.write("config.json", '{"pool_max": 6}')
        service.wait_for("a correction", lambda: server.stats()["pool"]["max"] == 6)
        self.assertEqual(server.get("/health").json()["status"], "ok")
        self.assert_clean_end(server)

    def test_help_and_version_need_nothing(self):
        import subprocess
        for option, pattern in (("--help", r"(?s)Usage: lookup.*--corpus DIR"), ("--version", r"lookup \(Patinox\) \d")):
            done = subprocess.run([service.BINARY, option], capture_output=True, text=True, check=True, env={})
            self.assertRegex(done.stdout, pattern)


if __name__ == "__main__":
    service.main()
