/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plot.c - curves of the miss ratio over the size, as SVG or PNG: a panel for each trace, and for entries and bytes.
 *
 * Sizes are on a logarithmic axis.  Each curve has its name at its right end, in its colour; the offline optimum is dashed,
 * since nothing reaches below it.
 */
#include "sim.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairo-svg.h>
#include <cairo.h>

#define PANEL_WIDTH  640.0
#define PANEL_HEIGHT 420.0
#define LEFT         64.0 /* margins of the axes in a panel */
#define RIGHT        118.0
#define TOP          62.0
#define BOTTOM       58.0
#define LINE_HEIGHT  14.0 /* of names at curves */
#define PNG_SCALE    2.0

struct colour {
    double red, green, blue;
};

static const struct colour ink = {0.13, 0.15, 0.18};
static const struct colour quiet = {0.42, 0.45, 0.50};
static const struct colour grid = {0.90, 0.91, 0.93};

/* Told apart by most of those who see colours otherwise, too (after Okabe and Ito, Color universal design, 2008). */
static const struct {
    const char *policy;
    struct colour colour;
} colours[] = {
        {"auto", {0.80, 0.10, 0.25}},
        {"lru", {0.00, 0.45, 0.70}},
        {"lfu", {0.58, 0.40, 0.20}},
        {"sieve", {0.00, 0.62, 0.45}},
        {"clock", {0.34, 0.66, 0.87}},
        {"fifo", {0.55, 0.57, 0.60}},
        {"s3-fifo", {0.84, 0.37, 0.00}},
        {"w-tinylfu", {0.50, 0.30, 0.70}},
        {"lirs", {0.78, 0.42, 0.62}},
        {"ttl", {0.70, 0.62, 0.10}},
        {"belady", {0.13, 0.15, 0.18}},
};

/* The cells of one trace in one unit, and the place of their panel. */
struct panel {
    const struct sim_options *options;
    const struct sim_cell *cells; /* of the trace: policy by policy */
    bool bytes;
    double x, y;  /* of the panel */
    double least; /* sizes, as logarithms */
    double most;
    double low, high; /* miss ratios in % */
    double step;
};

struct name {
    double at;     /* where the curve ends */
    double placed; /* where its name stands */
    uint32_t policy;
};

static void use(cairo_t *c, struct colour colour) {
    cairo_set_source_rgb(c, colour.red, colour.green, colour.blue);
}

static struct colour colour_of(const char *policy) {
    for (size_t i = 0; i < sizeof(colours) / sizeof(colours[0]); i++) {
        if (strcmp(colours[i].policy, policy) == 0)
            return colours[i].colour;
    }
    return quiet;
}

static double miss(const struct sim_cell *cell) {
    return 100 - 100 * sim_ratio(cell->hits, cell->requests);
}

static double text_width(cairo_t *c, const char *text) {
    cairo_text_extents_t extents;
    cairo_text_extents(c, text, &extents);
    return extents.x_advance;
}

/* align: 0 left, 0.5 centred, 1 right. */
static void write_text(cairo_t *c, double x, double y, double align, const char *text) {
    cairo_move_to(c, x - align * text_width(c, text), y);
    cairo_show_text(c, text);
}

static void font(cairo_t *c, double size, bool bold) {
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
            bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, size);
}

static double x_of(const struct panel *panel, uint64_t size) {
    double width = PANEL_WIDTH - LEFT - RIGHT;
    if (panel->most <= panel->least)
        return panel->x + LEFT + width / 2;
    return panel->x + LEFT +
           width * (log((double)size) - panel->least) / (panel->most - panel->least);
}

static double y_of(const struct panel *panel, double percent) {
    double height = PANEL_HEIGHT - TOP - BOTTOM;
    return panel->y + TOP + height * (panel->high - percent) / (panel->high - panel->low);
}

static bool shown(const struct panel *panel, const struct sim_cell *cell) {
    return cell->bytes == panel->bytes;
}

static void widen(double *low, double *high, bool first, double value) {
    *low = first || value < *low ? value : *low;
    *high = first || value > *high ? value : *high;
}

/* Lines of the grid at round numbers, and the ends of the axis at two of them. */
static void choose_grid(struct panel *panel) {
    double range = panel->high - panel->low;
    panel->step = range > 50 ? 20 : range > 25 ? 10 : range > 10 ? 5 : range > 4 ? 2 : 1;
    panel->low = floor(panel->low / panel->step) * panel->step;
    panel->high = ceil(panel->high / panel->step) * panel->step;
    if (panel->high > panel->low)
        return;
    if (panel->low > 0)
        panel->low -= panel->step;
    else
        panel->high += panel->step;
}

/* Finds the ranges; false when there is nothing to show in this unit. */
static bool measure(struct panel *panel) {
    size_t n = (size_t)panel->options->policy_count * panel->options->size_count;
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        const struct sim_cell *cell = &panel->cells[i];
        if (!shown(panel, cell))
            continue;
        widen(&panel->least, &panel->most, !any, log((double)cell->size));
        widen(&panel->low, &panel->high, !any, miss(cell));
        any = true;
    }
    choose_grid(panel);
    return any;
}

/* A curve's sizes need not stand in order: order[i] is the index of the one that comes at i. */
static uint32_t sort_sizes(const struct panel *panel, uint32_t *order) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < panel->options->size_count; s++) {
        if (!shown(panel, &panel->cells[s]))
            continue;
        uint32_t at = n++;
        for (; at > 0 && panel->cells[order[at - 1]].size > panel->cells[s].size; at--)
            order[at] = order[at - 1];
        order[at] = s;
    }
    return n;
}

static void draw_title(cairo_t *c, const struct panel *panel) {
    char text[128];
    const char *slash = strrchr(panel->cells->trace, '/');
    use(c, ink);
    font(c, 15, true);
    write_text(c, panel->x + LEFT, panel->y + 28, 0,
            slash                                   ? slash + 1
            : strcmp(panel->cells->trace, "-") == 0 ? "standard input"
                                                    : panel->cells->trace);
    char requests[32];
    sim_number(panel->cells->requests, requests, sizeof(requests));
    snprintf(text, sizeof(text), "miss ratio over %s requests", requests);
    use(c, quiet);
    font(c, 11.5, false);
    write_text(c, panel->x + LEFT, panel->y + 46, 0, text);
}

static void draw_axes(cairo_t *c, const struct panel *panel, const uint32_t *order, uint32_t n) {
    double bottom = y_of(panel, panel->low), last = -1e9;
    font(c, 11, false);
    int lines = (int)lround((panel->high - panel->low) / panel->step);
    for (int i = 0; i <= lines; i++) {
        double percent = panel->low + i * panel->step;
        char text[16];
        snprintf(text, sizeof(text), "%.0f %%", percent);
        use(c, grid);
        cairo_set_line_width(c, 1);
        cairo_move_to(c, panel->x + LEFT, y_of(panel, percent));
        cairo_line_to(c, panel->x + PANEL_WIDTH - RIGHT, y_of(panel, percent));
        cairo_stroke(c);
        use(c, quiet);
        write_text(c, panel->x + LEFT - 8, y_of(panel, percent) + 4, 1, text);
    }
    for (uint32_t i = 0; i < n; i++) {
        char text[32];
        double x = x_of(panel, panel->cells[order[i]].size);
        sim_size_text(panel->cells[order[i]].size, panel->bytes, text, sizeof(text));
        cairo_move_to(c, x, bottom);
        cairo_line_to(c, x, bottom + 5);
        cairo_stroke(c);
        double half = text_width(c, text) / 2;
        if (x - half < last + 8)
            continue;
        write_text(c, x, bottom + 19, 0.5, text);
        last = x + half;
    }
    write_text(c, panel->x + LEFT + (PANEL_WIDTH - LEFT - RIGHT) / 2, bottom + 38, 0.5,
            panel->bytes ? "capacity in bytes" : "capacity in entries");
}

static void draw_curve(
        cairo_t *c, const struct panel *panel, uint32_t policy, const uint32_t *order, uint32_t n) {
    static const double dashes[] = {5, 3};
    const struct sim_cell *row = panel->cells + (size_t)policy * panel->options->size_count;
    bool optimum = !panel->options->policies[policy].policy;
    use(c, colour_of(row->policy));
    cairo_set_line_width(c, strcmp(row->policy, "auto") == 0 ? 3 : optimum ? 1.2 : 1.8);
    cairo_set_line_join(c, CAIRO_LINE_JOIN_ROUND);
    cairo_set_dash(c, dashes, optimum ? 2 : 0, 0);
    cairo_new_path(c); /* texts leave a point behind */
    for (uint32_t i = 0; i < n; i++)
        cairo_line_to(c, x_of(panel, row[order[i]].size), y_of(panel, miss(&row[order[i]])));
    cairo_stroke(c);
    cairo_set_dash(c, dashes, 0, 0);
    for (uint32_t i = 0; i < n; i++) {
        cairo_arc(c, x_of(panel, row[order[i]].size), y_of(panel, miss(&row[order[i]])), 2.2, 0,
                2 * M_PI);
        cairo_fill(c);
    }
}

static int by_height(const void *a, const void *b) {
    const struct name *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at ? 1 : x->policy < y->policy ? -1 : 1;
}

/* Names keep their distance: first down from the top, then up from the bottom where they would leave the panel. */
static void spread(struct name *names, uint32_t n, double top, double bottom) {
    for (uint32_t i = 0; i < n; i++) {
        double least = i > 0 ? names[i - 1].placed + LINE_HEIGHT : top;
        names[i].placed = names[i].at < least ? least : names[i].at;
    }
    for (uint32_t i = n; i-- > 0;) {
        double most = i + 1 < n ? names[i + 1].placed - LINE_HEIGHT : bottom;
        names[i].placed = names[i].placed > most ? most : names[i].placed;
    }
}

static void draw_names(cairo_t *c, const struct panel *panel, uint32_t last) {
    struct name names[SIM_POLICIES_MAX];
    uint32_t n = panel->options->policy_count;
    double x = x_of(panel, panel->cells[last].size);
    double right = panel->x + PANEL_WIDTH - RIGHT;
    for (uint32_t p = 0; p < n; p++) {
        const struct sim_cell *cell = panel->cells + (size_t)p * panel->options->size_count + last;
        names[p] = (struct name){.at = y_of(panel, miss(cell)), .policy = p};
    }
    qsort(names, n, sizeof(names[0]), by_height);
    spread(names, n, panel->y + TOP - 6, panel->y + PANEL_HEIGHT - BOTTOM - 4);
    font(c, 11.5, false);
    for (uint32_t i = 0; i < n; i++) {
        const char *policy = panel->options->policies[names[i].policy].name;
        bool bound = panel->bytes && !panel->options->policies[names[i].policy].policy;
        use(c, colour_of(policy));
        cairo_set_line_width(c, 0.6);
        cairo_move_to(c, x + 4, names[i].at);
        cairo_line_to(c, right + 12, names[i].placed);
        cairo_stroke(c);
        write_text(c, right + 15, names[i].placed + 4, 0, bound ? "belady (bound)" : policy);
    }
}

static void draw(cairo_t *c, const struct panel *panel) {
    uint32_t order[SIM_SIZES_MAX];
    uint32_t n = sort_sizes(panel, order);
    draw_title(c, panel);
    draw_axes(c, panel, order, n);
    for (uint32_t p = 0; p < panel->options->policy_count; p++)
        draw_curve(c, panel, p, order, n);
    draw_names(c, panel, order[n - 1]);
}

static bool is_svg(const char *file) {
    return strcmp(file + strlen(file) - 4, ".svg") == 0;
}

static int draw_all(const char *file, const struct panel *panels, size_t n, double width,
        double height, struct failure *failure) {
    bool svg = is_svg(file);
    cairo_surface_t *surface = svg ? cairo_svg_surface_create(file, width, height)
                                   : cairo_image_surface_create(CAIRO_FORMAT_RGB24,
                                             (int)(width * PNG_SCALE), (int)(height * PNG_SCALE));
    cairo_t *c = cairo_create(surface);
    if (!svg)
        cairo_scale(c, PNG_SCALE, PNG_SCALE);
    cairo_set_source_rgb(c, 1, 1, 1);
    cairo_paint(c);
    for (size_t i = 0; i < n; i++)
        draw(c, &panels[i]);
    cairo_status_t status = cairo_status(c);
    cairo_destroy(c);
    if (status == CAIRO_STATUS_SUCCESS && !svg)
        status = cairo_surface_write_to_png(surface, file);
    cairo_surface_finish(surface);
    if (status == CAIRO_STATUS_SUCCESS)
        status = cairo_surface_status(surface);
    cairo_surface_destroy(surface);
    return status == CAIRO_STATUS_SUCCESS
                   ? 0
                   : fail(failure, "%s: %s", file, cairo_status_to_string(status));
}

int sim_plot(const struct sim_options *options, const struct sim_results *results,
        struct failure *failure) {
    size_t each = (size_t)options->policy_count * options->size_count, n = 0;
    struct panel *panels = calloc(2 * (size_t)options->trace_count, sizeof(*panels));
    if (!panels)
        return fail(failure, "out of memory");
    for (uint32_t i = 0; i < 2 * options->trace_count; i++) {
        struct panel *panel = &panels[n];
        *panel = (struct panel){
                .options = options, .cells = results->cells + (i / 2) * each, .bytes = i % 2 == 1};
        n += measure(panel);
    }
    /* One, two or three beside each other, for a page that is not much higher than wide. */
    size_t columns = n <= 1 ? 1 : n <= 6 ? 2 : 3;
    for (size_t i = 0; i < n; i++) {
        size_t row = i / columns, column = i % columns;
        panels[i].x = (double)column * PANEL_WIDTH;
        panels[i].y = (double)row * PANEL_HEIGHT;
    }
    size_t rows = (n + columns - 1) / columns;
    double height = (double)rows * PANEL_HEIGHT;
    int rc = draw_all(options->plot, panels, n, (double)columns * PANEL_WIDTH, height, failure);
    free(panels);
    return rc;
}
