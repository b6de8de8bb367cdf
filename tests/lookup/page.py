#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: search, open a document, plots that move.  PNX_SCREENSHOT=FILE keeps a picture."""
import os
import shutil
import threading
import unittest

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import service
from service import wait_for

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")


@unittest.skipUnless(CHROMIUM and DRIVER, "chromium or chromedriver is not installed")
class Page(service.SharedCase):
    def setUp(self):
        super().setUp()
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                         "--window-size=1440,1000", f"--user-data-dir={self.path('profile')}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.browser = webdriver.Chrome(service=webdriver.chrome.service.Service(DRIVER), options=options)
        self.addCleanup(self.browser.quit)
        self.browser.get(self.service.url)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def assert_no_errors(self):
        self.assertEqual([entry for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"], [])

    def search(self, text):
        box = self.one("#q")
        box.clear()
        box.send_keys(text)
        wait_for("results", lambda: self.browser.current_url.endswith("?q=" + text.replace(" ", "+")) and
                 " in " in self.one("#summary").text)

    def test_page_searches_as_one_types(self):
        self.search("number0051")
        wait_for("the result", lambda: len(self.all("#results li")) == 1)
        self.assertIn("file51.txt", self.one("#results .path").text)
        self.assertEqual(self.one("#results mark").text.lower(), "number0051")
        self.assertRegex(self.one("#summary").text, r"^1 document in .+, from the (index|cache)$")
        self.assert_no_errors()

    def test_page_shows_more_results(self):
        self.search("cedar")
        wait_for("results", lambda: len(self.all("#results li")) == 10)
        self.one("#more").click()
        wait_for("more results", lambda: len(self.all("#results li")) == 20)

    def test_page_opens_a_document_and_goes_back(self):
        self.search("number0042")
        wait_for("the result", lambda: self.all("#results a"))[0].click()
        wait_for("the document", lambda: self.one("#document").is_displayed())
        self.assertIn("number0042", self.one("#text").text)
        self.assertIn("Document 42", self.one("#document-title").text)
        self.assertEqual(self.one("#text mark").text.lower(), "number0042")
        self.assertFalse(self.one("#results").is_displayed())
        self.browser.back()
        wait_for("the results again", lambda: self.one("#results").is_displayed() and
                 not self.one("#document").is_displayed())
        self.assertEqual(self.one("#q").get_attribute("value"), "number0042")
        self.assert_no_errors()

    def test_page_opens_a_document_by_its_address(self):
        number = self.service.search("number0042").json()["results"][0]["id"]
        self.browser.get(f"{self.service.url}?q=number0042&doc={number}")
        wait_for("the document", lambda: "number0042" in self.one("#text").text)

    def test_page_is_usable_by_keyboard(self):
        self.one("body").send_keys("/")
        self.assertEqual(self.browser.switch_to.active_element.get_attribute("id"), "q")
        self.search("cedar")
        wait_for("results", lambda: len(self.all("#results li")) == 10)
        self.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
        self.assertEqual(self.browser.switch_to.active_element, self.all("#results a")[0])
        self.browser.switch_to.active_element.send_keys(Keys.ENTER)
        wait_for("the document", lambda: self.one("#document").is_displayed())
        self.one("#text").send_keys(Keys.ESCAPE)
        wait_for("the results again", lambda: self.one("#results").is_displayed())

    def test_page_tells_what_went_wrong(self):
        self.one("#q").send_keys("...")
        wait_for("the error", lambda: "error" in self.one("#summary").get_attribute("class"))
        self.assertTrue(self.one("#summary").text)

    def test_page_takes_text_as_text(self):
        self.one("#q").send_keys("<img src=x onerror=alert(1)>")
        wait_for("an answer", lambda: " in " in self.one("#summary").text)
        self.assertEqual(self.all("#search img"), [])

    def points(self):
        return int(self.browser.execute_script("return document.documentElement.dataset.points || 0"))

    def test_plots_move(self):
        stop = threading.Event()

        def load():
            connection, n = self.service.connect(), 0
            while not stop.is_set():
                n += 1
                self.service.get(f"/search?q={service.WORDS[n % 25]}&offset={n % 11}", connection=connection)
            connection.close()
        worker = threading.Thread(target=load)
        worker.start()
        self.addCleanup(worker.join)
        self.addCleanup(stop.set)
        names = ("rate", "latency", "pool", "ratio", "bytes", "budget")
        picture = "return arguments[0].map(n => document.getElementById('plot-' + n).toDataURL())"
        wait_for("two points", lambda: self.points() >= 2)
        before = self.browser.execute_script(picture, names)
        wait_for("two more points", lambda: self.points() >= 4)
        after = self.browser.execute_script(picture, names)
        for name, old, new in zip(names, before, after):
            self.assertNotEqual(old, new, f"the plot {name} stands still")
        rate = self.one("#plot-rate").get_attribute("aria-label")
        self.assertRegex(rate, r"Requests/s: all [1-9]")
        self.assertEqual(self.one("#health").text, "ok")
        self.assert_no_errors()


if "PNX_SCREENSHOT" in os.environ:  # not a test: PNX_SCREENSHOT=FILE [PNX_SCREENSHOT_URL=URL PNX_SCREENSHOT_WORDS=TEXT]
    class Screenshot(Page):
        def test_screenshot(self):
            words = os.environ.get("PNX_SCREENSHOT_WORDS", "cedar lantern")
            self.browser.get(os.environ.get("PNX_SCREENSHOT_URL", self.service.url))
            self.search(words)
            wait_for("two minutes of plots", lambda: self.points() >= int(os.environ.get("PNX_SCREENSHOT_POINTS", "100")), 200)
            self.browser.save_screenshot(os.environ["PNX_SCREENSHOT"])


if __name__ == "__main__":
    service.main()
