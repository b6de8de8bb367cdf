# SPDX-License-Identifier: Apache-2.0
"""Results of tests that are written in Python, as the harness of the C tests writes them."""
import os
import sys
import unittest


class _Record(unittest.TextTestResult):
    """Writes "module.script.test<TAB>result<TAB>reason" lines."""

    program = ""

    def _record(self, test, result, reason=""):
        method = getattr(test, "_testMethodName", None)
        name = method.removeprefix("test_") if method else "set_up_and_clean_up"
        line = f"{self.program}.{name}\t{result}\t{reason}"
        print(line.replace("\t", " ").rstrip(), flush=True)
        if os.environ.get("PNX_TEST_RESULTS"):
            with open(os.environ["PNX_TEST_RESULTS"], "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def addSuccess(self, test):
        super().addSuccess(test)
        self._record(test, "pass")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._record(test, "fail", str(err[1]).split("\n", 1)[0][:200])

    def addError(self, test, err):
        super().addError(test, err)
        self._record(test, "fail", str(err[1]).split("\n", 1)[0][:200])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._record(test, "skip", reason)


def main(module):
    """Runs the tests of the script as module.script; does not return."""
    _Record.program = f"{module}.{os.path.splitext(os.path.basename(sys.argv[0]))[0]}"
    results = os.environ.get("PNX_TEST_RESULTS")
    if results and os.path.exists(results):
        os.unlink(results)
    unittest.main(testRunner=unittest.TextTestRunner(resultclass=_Record, verbosity=0), failfast=False)
