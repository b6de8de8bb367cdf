// SPDX-License-Identifier: Apache-2.0
// thrower.cpp - a C++ exception, and a caller who would catch it; see test_callbacks.c.

extern "C" void throw_it();
extern "C" bool catches(void (*fn)(void *arg), void *arg);

void throw_it() {
    throw 42;
}

// Whether something that fn throws comes through.
bool catches(void (*fn)(void *arg), void *arg) {
    try {
        fn(arg);
    } catch (int value) {
        return value == 42;
    }
    return false;
}
