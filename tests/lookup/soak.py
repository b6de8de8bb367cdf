#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""64 connections, settings that change all the time, clients that leave in the middle: nothing fails, nothing grows."""
import collections
import http.client
import json
import os
import random
import socket
import threading
import time

import service
from service import LONG, SLOW

SECONDS = 60 if LONG else 10
CONNECTIONS = 64
THREADS = 8  # each drives its share of the connections
WARM_UP = 500  # answers a thread, before the clock starts: caches, buffers and threads' heaps reach their size


class Client(threading.Thread):
    """Drives some connections by turns; counts what came back."""

    def __init__(self, server, connections, seed, end, answers=float("inf")):
        super().__init__(daemon=True)
        self.server, self.count, self.random, self.end = server, connections, random.Random(seed), end
        self.answers = answers
        self.statuses = collections.Counter()
        self.broken = []
        self.left = 0

    def path(self):
        kind = self.random.random()
        if kind < 0.70:
            words = "+".join(self.random.sample(service.WORDS, self.random.randrange(1, 3)))
            return f"/search?q={words}&offset={self.random.randrange(3)}"
        if kind < 0.85:
            return f"/documents/{self.random.randrange(1, 300)}"
        return self.random.choice(("/health", "/metrics", "/stats.json", "/", f"/search?q=number{self.random.randrange(300):04d}"))

    def leave_early(self):
        """Sends part of a request, or does not wait for its answer."""
        with socket.create_connection((self.server.host, self.server.port), 30 * SLOW) as sock:
            request = f"GET {self.path()} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            sock.sendall(request[:self.random.randrange(1, len(request) + 1)] if self.random.random() < 0.5 else request * 3)
            if self.random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.left += 1

    def run(self):
        connections = [self.server.connect() for _ in range(self.count)]
        try:
            while time.monotonic() < self.end and sum(self.statuses.values()) < self.answers:
                for connection in connections:
                    if self.random.random() < 0.02:
                        connection.close()  # http.client connects again
                        self.leave_early()
                    answer = self.server.get(self.path(), connection=connection)
                    self.statuses[answer.status] += 1
        except (OSError, http.client.HTTPException) as error:
            self.broken.append(repr(error))
        finally:
            for connection in connections:
                connection.close()


class Soak(service.Case):
    def test_soak_serves_everybody_and_does_not_grow(self):
        config = self.path("config.json")

        def settle(n):
            with open(config + ".new", "w", encoding="utf-8") as file:
                json.dump({"pool_max": 2 + n % 5, "cache_bytes": f"{1 + n % 3}MiB", "cache_ttl": f"{200 + n % 7}ms"}, file)
            os.replace(config + ".new", config)
        settle(0)
        server = self.start(config=config)
        memory, changes = [], 0

        def drive(clients):
            nonlocal changes
            begin = time.monotonic()
            memory.clear()
            for client in clients:
                client.start()
            while any(client.is_alive() for client in clients):
                changes += 1
                settle(changes)
                memory.append((time.monotonic() - begin, server.resident()))
                clients[0].join(0.25)
            return clients
        share = CONNECTIONS // THREADS
        drive([Client(server, share, 100 + seed, float("inf"), WARM_UP) for seed in range(THREADS)])
        end = time.monotonic() + SECONDS
        clients = drive([Client(server, share, seed, end) for seed in range(THREADS)])
        statuses = sum((client.statuses for client in clients), collections.Counter())
        print(f"{sum(statuses.values())} answers {dict(statuses)}, {sum(c.left for c in clients)} clients left early, "
              f"{changes} changes of the settings", flush=True)
        self.assertEqual([error for client in clients for error in client.broken], [])
        self.assertEqual({status for status in statuses if status not in (200, 404)}, set())
        self.assertGreater(statuses[200], 500)
        self.assertEqual(server.get("/health").json()["status"], "ok")

        stats = server.stats()
        self.assertEqual(stats["server_errors"], 0)
        self.assertLessEqual(stats["pool"]["in_use"] + stats["pool"]["idle"], 64)
        service.wait_for("all connections to be home", lambda: server.stats()["pool"]["in_use"] == 0)
        service.wait_for("all clients to be gone", lambda: server.stats()["connections"] <= 1)

        first = max(size for at, size in memory if at <= SECONDS / 3)
        last = memory[-1][1]
        print("resident MiB: " + " ".join(f"{size / 2**20:.1f}" for _, size in memory[::max(1, len(memory) // 30)]))
        print(f"resident after a third {first / 2**20:.1f} MiB, at the end {last / 2**20:.1f} MiB", flush=True)
        if SLOW == 1:  # a sanitizer keeps freed memory for a while
            self.assertLessEqual(last, first * 1.05)
        self.assert_clean_end(server)


if __name__ == "__main__":
    service.main()
