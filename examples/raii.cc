// SPDX-License-Identifier: Apache-2.0
//
// raii.cc - a C++ caller: guards and registry rows as classes, cleanups as lambdas, errors as exceptions.
//
// Two rules at the border.  A cleanup is called by C code: an exception must not leave it, so it becomes an error code.
// And the other way round: what a function of the library returns as an error code becomes a std::system_error.
//
#include <patinox/patinox.h>

#include <cstdio>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

namespace {

// ---- errors ----

class category : public std::error_category {
  public:
    const char *name() const noexcept override {
        return "patinox";
    }
    std::string message(int code) const override {
        return pnx_strerror(code);
    }
};

const std::error_category &errors() {
    static const category instance;
    return instance;
}

void check(int rc, const char *what) {
    if (rc)
        throw std::system_error(rc, errors(), what);
}

// Calls what may throw; returns what a cleanup returns.
template <class Call> int as_code(const Call &call) noexcept {
    try {
        call();
        return 0;
    } catch (const std::system_error &error) {
        int code = error.code().value();
        return code < 0 ? code : code > 0 ? -code : -EIO;
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    } catch (...) {
        return -EIO;
    }
}

// ---- a guard ----

// Owns one cleanup, which runs when it goes out of scope, also by an exception.  Moves; does not copy.
class guard {
  public:
    template <class Call> explicit guard(Call call) {
        std::unique_ptr<Call> kept(new Call(std::move(call)));
        check(pnx_guard_arm(&guard_, run_once<Call>, kept.get()), "guard");
        kept.release();
    }
    guard(guard &&other) noexcept : guard_(pnx_guard_move(&other.guard_)) {}
    guard(const guard &) = delete;
    guard &operator=(const guard &) = delete;
    guard &operator=(guard &&) = delete;
    ~guard() {
        pnx_guard_drop(&guard_);
    }

    // Runs it now; what it failed with is thrown.
    void run() {
        check(pnx_guard_run(&guard_), "cleanup");
    }

    // From now on a row of the process's registry: reports show it, and a shutdown runs it if this does not.
    void track(const char *type, const std::string &name, const char *site) {
        pnx_resource resource = pnx_resource_init();
        resource.type = type;
        resource.name = name.c_str();
        resource.site = site;
        pnx_error err;
        if (int rc = pnx_guard_track(&guard_, nullptr, &resource, &err))
            throw std::system_error(rc, errors(), err.message);
    }

  private:
    template <class Call> static int run_once(void *arg, const pnx_cancel *) noexcept {
        const std::unique_ptr<Call> call(static_cast<Call *>(arg));
        return as_code(*call);
    }
    pnx_guard guard_ = pnx_guard();
};

// ---- an object that registers itself ----

// A row of the process's registry for as long as this lives.  The object's close() is called once: by a shutdown, or
// at the end of the row.  An object declares its row last, so that it goes first, while the rest is still there.
class row {
  public:
    template <class Object>
    row(Object *object, const char *type, const std::string &name, const char *site)
        : registry_(pnx_registry_ref(nullptr)), close_(close<Object>), object_(object) {
        pnx_resource resource = pnx_resource_init();
        resource.type = type;
        resource.name = name.c_str();
        resource.site = site;
        resource.cleanup = close_;
        resource.arg = object;
        int rc = pnx_registry_add(registry_, &resource, nullptr, &id_);
        if (rc) {
            pnx_registry_release(&registry_);
            check(rc, "register");
        }
    }
    row(const row &) = delete;
    row &operator=(const row &) = delete;
    ~row() {
        if (pnx_registry_remove(registry_, id_) == 0) // else it has been closed: waits for the end
            close_(object_, nullptr);
        pnx_registry_release(&registry_);
    }

  private:
    template <class Object> static int close(void *arg, const pnx_cancel *) noexcept {
        Object *object = static_cast<Object *>(arg);
        return as_code([object] { object->close(); });
    }
    pnx_registry *registry_; // a reference: the row may be gone before this
    pnx_cleanup_fn *close_;
    void *object_;
    pnx_resource_id id_ = 0;
};

class session {
  public:
    session(std::string user, const char *site)
        : user_(std::move(user)), row_(this, "session", user_, site) {}
    void close() {
        std::printf("session of %s closes\n", user_.c_str());
    }

  private:
    std::string user_;
    row row_; // last
};

// ---- use ----

void transfer(int *balance, bool fail) {
    int before = *balance;
    guard undo([balance, before] { *balance = before; });
    *balance -= 10;
    if (fail)
        throw std::runtime_error("the other side has hung up"); // undone
    guard done(std::move(undo));                                // what was moved from does nothing
    done.run();
    *balance -= 10;
}

int use() {
    int balance = 100;
    try {
        transfer(&balance, true);
        return 1;
    } catch (const std::runtime_error &error) {
        std::printf("%s; balance %d\n", error.what(), balance);
    }
    transfer(&balance, false);
    if (balance != 90)
        return 1;

    // A cleanup that throws: the exception arrives here as the error that it carried.
    guard broken([] { throw std::system_error(ENOSPC, std::generic_category()); });
    try {
        broken.run();
        return 1;
    } catch (const std::system_error &error) {
        std::printf("%s\n", error.what());
        if (error.code().value() != -ENOSPC)
            return 1;
    }

    bool ended = false;
    guard tracked(
            [&ended] { ended = true; }); // outlives the shutdown, or it could not refer to ended
    tracked.track("answer", "42", PNX_SITE);
    { session left("Ada", PNX_SITE); }
    session open("Grace", PNX_SITE);
    check(pnx_shutdown(5 * PNX_SEC, nullptr), "shutdown"); // closes the session, runs the guard
    return ended && pnx_registry_count(nullptr) == 0 ? 0 : 1;
}

} // namespace

int main() {
    try {
        return use();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
