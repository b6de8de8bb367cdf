/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - lookup: full-text search over a directory of documents, on everything that Patinox offers.
 *
 *   options, settings, port (all checked before any work) -> index -> serve -> signal -> drain -> report
 *
 * The main thread opens the store and then waits for signals and for changes of the configuration file, which a worker
 * of an executor puts in force; the server has its own threads.  SIGHUP reads the settings again, SIGUSR1 puts those before back in force; SIGTERM and
 * SIGINT end the program, a second one at once.
 */
#include "cli.h"
#include "disk.h"
#include "log.h"
#include "progress.h"
#include "server.h"
#include "store.h"

#include <patinox/config.h>
#include <patinox/executor.h>
#include <patinox/fault.h>
#include <patinox/rc.h>
#include <patinox/shutdown.h>
#include <patinox/stats.h>
#include <patinox/watch.h>

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define EXIT_USAGE          2
#define SECOND_SIGNAL_AFTER (250 * PNX_MS)
#define JOBS_MAX            4 /* of the executor: each puts the newest settings in force */

/* Everything of the program; the main thread's, but what the executor's worker is said to have. */
struct app {
    struct cli cli;
    struct lookup_settings settings; /* in force; the worker's once the server has started */
    uint64_t applied;                /* their version; likewise */
    struct pnx_executor *executor; /* what may wait for the store is not done by the main thread */
    struct pnx_watch *watch;       /* on the settings: submits a job for each change */
    struct pnx_config *config;     /* of a file, or of nothing but the environment */
    const char *config_name;       /* for messages */
    struct lookup_store *store;
    struct server *server;
    int signals;   /* a signalfd */
    int listen_fd; /* bound; -1 once it is the server's */
    int signal;    /* the one that ends the program; 0: none yet */
    struct progress progress;
    char url[SERVER_URL_SIZE];
};

/* ---- settings ---- */

static const struct pnx_rc_type settings_type = PNX_RC_TYPE(struct lookup_settings);

static int parse_settings(
        void *ctx, const char *text, size_t size, struct pnx_error *err, void **ret_value) {
    struct lookup_settings settings;
    (void)ctx;
    int r = lookup_settings_parse(text, size, err, &settings);
    if (r < 0)
        return r;
    r = pnx_rc_new(&settings_type, &settings, ret_value);
    return r < 0 ? pnx_config_fail(err, r, "no memory for the settings") : 0;
}

/* Without --config the text is this one, so that the environment is looked at in any case. */
static int no_file(void *ctx, struct pnx_config_fetch *fetch, struct pnx_error *err) {
    (void)ctx;
    (void)err;
    return pnx_config_fetch_add(fetch, "{}", 2);
}

/* LOOKUP_POOL_MAX=8 in the environment stands over what the file says. */
static int override_setting(
        void *ctx, void *value, const char *setting, const char *text, struct pnx_error *err) {
    (void)ctx;
    return lookup_settings_set(value, setting, text, err);
}

static void apply_settings(
        struct app *app, const struct lookup_settings *settings, uint64_t version) {
    struct pnx_error err = {0};
    int r = lookup_store_apply(app->store, settings, &err);
    if (r < 0) {
        log_line(PNX_LOG_ERROR, "%s: not applied: %s", app->config_name, err.message);
        return;
    }
    app->settings = *settings;
    server_set_search_timeout(app->server, settings->search_timeout_ns);
    log_set_level(settings->log_level);
    log_line(PNX_LOG_INFO,
            "%s: settings %llu in force: pool_max %u, cache_bytes %llu, log_level %s",
            app->config_name, (unsigned long long)version, settings->pool_max,
            (unsigned long long)settings->cache_bytes, lookup_log_level_name(settings->log_level));
}

/* A job; there is one worker, so that one runs at a time. */
static int apply_newest(void *arg, const struct pnx_cancel *cancel) {
    struct app *app = arg;
    uint64_t version;
    (void)cancel;
    const struct lookup_settings *settings = pnx_config_load(app->config, &version);
    if (version != app->applied) {
        app->applied = version;
        apply_settings(app, settings, version);
    }
    pnx_rc_unref(settings);
    return 0;
}

/* Hears of new settings, on the main thread, which calls pnx_config_tick(). */
static void settings_changed(void *ctx, const void *value, uint64_t version) {
    struct app *app = ctx;
    struct pnx_error err = {0};
    (void)value;
    (void)version;
    int r = pnx_executor_submit(app->executor,
            PNX_JOB(.run = apply_newest, .arg = app, .name = "settings"), &err, NULL);
    if (r < 0 && r != -EBUSY) /* where it is full, one that has not begun takes these */
        log_line(PNX_LOG_ERROR, "%s: not applied: %s", app->config_name, err.message);
}

static int watch_settings(struct app *app, struct pnx_error *err) {
    int r = pnx_executor_create(
            PNX_EXECUTOR_OPTS(.name = "lookup", .env = log_env(), .workers = 1, .max_workers = 1,
                    .queue_max = JOBS_MAX, .on_full = PNX_EXECUTOR_REJECT),
            err, &app->executor);
    if (r < 0)
        return r;
    return pnx_config_watch_open(app->config,
            PNX_WATCH_OPTS(.name = "settings", .changed = settings_changed, .ctx = app,
                    .seen = app->applied),
            err, &app->watch);
}

/* Each event of the library, of all its parts, as a line of the most detailed level. */
static void log_event(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    log_line(PNX_LOG_DEBUG, "event %s of %s%s%s: %lld%s%s", pnx_event_name(event->type),
            event->object, event->cause ? ", " : "", event->cause ? event->cause : "",
            (long long)event->value, event->code ? ", " : "",
            event->code ? pnx_strerror(event->code) : "");
}

static void listen_to_events(void) {
    const struct pnx_monitor monitor = {.size = sizeof(monitor), .event = log_event};
    uint32_t id;
    if (pnx_monitor_add(NULL, &monitor, &id) < 0)
        log_line(PNX_LOG_WARNING, "events are not logged");
}

static int load_settings(struct app *app, struct pnx_error *err) {
    const char *path = app->cli.config;
    app->config_name = path ? path : "settings";
    int r = pnx_config_create(
            PNX_CONFIG_OPTS(.name = "lookup", .path = path, .source = path ? NULL : no_file,
                    .flags = path ? 0 : PNX_CONFIG_NO_WATCH, .env = log_env(),
                    .parse = parse_settings, .env_prefix = "LOOKUP_", .override = override_setting,
                    .max_bytes = LOOKUP_SETTINGS_MAX_BYTES),
            err, &app->config);
    if (r < 0)
        return r;
    const void *value = pnx_config_load(app->config, &app->applied);
    memcpy(&app->settings, value, sizeof(app->settings));
    pnx_rc_unref(value);
    return 0;
}

/* ---- signals ---- */

static int open_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    signal(SIGPIPE, SIG_IGN);
    /* Before any thread is made: all of them inherit it, so that only the descriptor receives these. */
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Takes pending signals.  Returns whether the program is to end. */
static bool take_signals(struct app *app) {
    struct signalfd_siginfo info;
    while (read(app->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        struct pnx_error err = {0};
        bool serves = app->config && app->server;
        if (info.ssi_signo != SIGHUP && info.ssi_signo != SIGUSR1)
            app->signal = (int)info.ssi_signo;
        else if (serves && info.ssi_signo == SIGHUP &&
                 pnx_config_reload(app->config, &err) == -ECANCELED)
            log_line(PNX_LOG_WARNING, "%s",
                    err.message); /* other failures are logged by the config */
        else if (serves && info.ssi_signo == SIGUSR1 &&
                 pnx_config_rollback(app->config, 0, &err) == -ENOENT)
            log_line(PNX_LOG_WARNING, "%s", err.message);
    }
    return app->signal != 0;
}

static pnx_ns first_signal; /* when it was taken */

static void exit_now(int number) {
    static const char text[] = "lookup: second signal, ending at once\n";
    (void)number;
    /* One press of a key, or one "timeout", may send the same signal twice: to the process and to its group. */
    if (pnx_now() - first_signal < SECOND_SIGNAL_AFTER)
        return;
    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    _exit(1);
}

/* From now on a signal ends the process, whatever it is doing. */
static void arm_second_signal(void) {
    struct sigaction action = {.sa_handler = exit_now};
    first_signal = pnx_now();
    sigset_t set;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- the life of the program ---- */

static int on_progress(void *ctx, const struct lookup_progress *now) {
    struct app *app = ctx;
    progress_show(&app->progress, now);
    return take_signals(app) ? -ECANCELED : 0;
}

static int open_store(struct app *app, struct pnx_error *err) {
    const struct lookup_store_opts opts = {
            .corpus = app->cli.corpus,
            .data_dir = app->cli.data_dir,
            .settings = &app->settings,
            .progress = on_progress,
            .progress_ctx = app,
            .env = log_env(),
    };
    progress_init(&app->progress);
    log_set_bar(app->progress.terminal);
    /* The default place may lie in a home where nobody has needed a cache yet. */
    int r = 0;
    if (app->cli.data_dir == app->cli.data_dir_buffer)
        r = lookup_disk_make_parents(app->cli.data_dir, err);
    if (r == 0)
        r = lookup_store_open(&opts, err, &app->store);
    progress_clear(&app->progress);
    log_set_bar(false);
    return r;
}

/* The cache of the last run: to have it back is good, to be without it no failure. */
static void load_answers(struct app *app) {
    struct pnx_error err = {0};
    uint64_t answers = 0;
    int r = lookup_store_load_answers(app->store, &err, &answers);
    if (r == 0)
        log_line(PNX_LOG_INFO, "%llu answers of the last run are in the cache",
                (unsigned long long)answers);
    else if (r != -ENOENT)
        log_line(r == -ESTALE ? PNX_LOG_INFO : PNX_LOG_WARNING, "the cache begins empty: %s",
                err.message);
}

static void save_answers(struct app *app) {
    struct pnx_error err = {0};
    uint64_t answers = 0;
    int r = lookup_store_save_answers(app->store, &err, &answers);
    if (r == 0)
        log_line(PNX_LOG_INFO, "%llu answers are saved for the next start",
                (unsigned long long)answers);
    else if (r != -ESHUTDOWN)
        log_line(PNX_LOG_WARNING, "the answers are not saved: %s", err.message);
}

static int start(struct app *app, struct pnx_error *err) {
    const struct server_opts opts = {
            .listen_fd = app->listen_fd,
            .store = app->store,
            .config = app->config,
            .search_timeout = app->settings.search_timeout_ns,
            .connections = app->cli.connections,
            .client_timeout_s = app->cli.client_timeout_s,
            .bench_constant = app->cli.bench_constant,
    };
    app->listen_fd = -1;
    int r = server_start(&opts, err, &app->server);
    if (r == 0)
        r = watch_settings(app, err);
    if (r < 0)
        return r;
    struct lookup_store_info info;
    lookup_store_info(app->store, &info);
    printf("lookup: serving %llu documents at %s\n", (unsigned long long)info.documents, app->url);
    fflush(stdout);
    return 0;
}

/* Waits for the end, and keeps the settings fresh meanwhile. */
static void serve(struct app *app) {
    int config_fd = app->config ? pnx_config_fd(app->config) : -1;
    while (!take_signals(app)) {
        pnx_ns due = app->config ? pnx_config_tick(app->config, pnx_now()) : PNX_NEVER;
        pnx_ns left = due == PNX_NEVER ? PNX_NEVER : due - pnx_now();
        int timeout = left == PNX_NEVER      ? -1
                      : left <= 0            ? 0
                      : left >= 60 * PNX_SEC ? 60000
                                             : (int)(left / PNX_MS) + 1;
        struct pollfd fds[2] = {
                {.fd = app->signals, .events = POLLIN}, {.fd = config_fd, .events = POLLIN}};
        if (poll(fds, 2, timeout) < 0 && errno != EINTR) {
            log_line(PNX_LOG_ERROR, "poll: %s", strerror(errno));
            return;
        }
    }
}

static int write_out(void *ctx, const char *text, size_t size) {
    return fwrite(text, 1, size, ctx) == size ? 0 : -EIO;
}

/* First what calls others, and last what is called. */
static void release_parts(struct app *app) {
    pnx_watch_release(&app->watch);
    pnx_executor_release(&app->executor);
    server_release(&app->server);
    lookup_store_release(&app->store);
    pnx_config_release(&app->config);
}

/* Ends everything under one deadline and prints the report.  Returns the exit status. */
static int finish(struct app *app) {
    pnx_ns whole = (pnx_ns)app->cli.drain_s * PNX_SEC;
    pnx_ns begin = pnx_now();
    arm_second_signal();
    log_line(PNX_LOG_INFO, "%s: shutting down", strsignal(app->signal));
    if (app->server) {
        /* A quarter is kept for the cleanups: they want time even when a client does not finish. */
        size_t active = server_drain(app->server, begin + whole / 4 * 3);
        if (active > 0)
            log_line(PNX_LOG_WARNING, "%zu requests were not finished in time", active);
    }
    if (app->store &&
            lookup_store_stop_rebuilding(app->store, begin + whole / 4 * 3 - pnx_now()) < 0)
        log_line(PNX_LOG_WARNING, "the index is still being built");
    if (app->server && app->store)
        save_answers(app);
    pnx_ns left = begin + whole - pnx_now();
    struct pnx_shutdown_report *report = NULL;
    int r = pnx_shutdown(left > 0 ? left : 0, &report);
    if (report && pnx_shutdown_report_write(report, PNX_REPORT_TEXT, write_out, stdout) < 0)
        log_line(PNX_LOG_WARNING, "the shutdown report could not be written");
    fflush(stdout);
    pnx_shutdown_report_release(&report);
    if (r < 0) {
        log_line(PNX_LOG_ERROR, "the shutdown was not clean: %s", pnx_strerror(r));
        _exit(1); /* what is still running may use what we would free */
    }
    release_parts(app);
    return 0;
}

/* Gives back what a failed start had made. */
static int give_up(struct app *app, int status, const struct pnx_error *err, int code) {
    log_line(PNX_LOG_ERROR, "%s", err->message[0] ? err->message : pnx_strerror(code));
    release_parts(app);
    if (app->listen_fd >= 0)
        close(app->listen_fd);
    return status;
}

static int run(struct app *app) {
    struct pnx_error err = {0};
    app->signals = open_signals();
    if (app->signals < 0) {
        log_line(PNX_LOG_ERROR, "signalfd: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    /* Now, while there is one thread: the first access scope would do the same. */
    int r = pnx_fault_install(PNX_FAULT_SIGNAL);
    if (r < 0)
        log_line(PNX_LOG_WARNING, "faults in mapped files are not handled: %s", pnx_strerror(r));
    listen_to_events();
    r = load_settings(app, &err);
    if (r < 0)
        return give_up(app, EXIT_USAGE, &err, r);
    log_set_level(app->settings.log_level);
    app->listen_fd = server_bind(app->cli.host, app->cli.port, &err, app->url);
    if (app->listen_fd < 0)
        return give_up(app, EXIT_FAILURE, &err, app->listen_fd);
    r = open_store(app, &err);
    if (r == 0 && app->signal == 0) {
        load_answers(app);
        r = start(app, &err);
    }
    if (r < 0 && !(r == -ECANCELED && app->signal != 0))
        return give_up(app, EXIT_FAILURE, &err, r);
    if (app->signal == 0)
        serve(app);
    if (app->listen_fd >= 0)
        close(app->listen_fd);
    return finish(app);
}

/*
 * Answers are allocated on one thread and freed on another.  glibc's default, a heap for every thread up to eight a
 * processor, lets each of them grow to its own peak; two stay level, and are as fast here.
 */
static void limit_heaps(void) {
#ifdef M_ARENA_MAX
    (void)mallopt(M_ARENA_MAX, 2);
#endif
}

int main(int argc, char **argv) {
    static struct app app = {.signals = -1, .listen_fd = -1};
    struct pnx_error err = {0};
    limit_heaps();
    int r = cli_parse(argc, argv, &err, &app.cli);
    if (r < 0) {
        log_line(PNX_LOG_ERROR, "%s", err.message);
        return EXIT_USAGE;
    }
    if (app.cli.help) {
        cli_print_help(stdout);
        return EXIT_SUCCESS;
    }
    if (app.cli.version) {
        printf("lookup (Patinox) %s\n", pnx_version());
        return EXIT_SUCCESS;
    }
    int status = run(&app);
    if (app.signals >= 0)
        close(app.signals);
    return status;
}
