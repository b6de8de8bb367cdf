/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fibre.c - a stack for each explored thread, and going from one to the other.
 *
 * On x86-64 by hand, since swapcontext() makes two system calls and the rate of executions decides what can be
 * exhausted; elsewhere by swapcontext().
 */
#include "explorer/engine.h"

#include <sys/mman.h>

#define PAGE_BYTES ((size_t)64 << 10) /* no smaller than a page anywhere */

static void fibre_main(void) {
    x.self->run(x.self->arg);
    x_thread_end();
}

static char *new_stack(void) {
    char *p = mmap(NULL, X_STACK_BYTES + PAGE_BYTES, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + PAGE_BYTES, X_STACK_BYTES, PROT_READ | PROT_WRITE) != 0) {
        perror("explorer: stack");
        abort();
    }
    return p + PAGE_BYTES;
}

#ifdef __x86_64__
/* Saves what a callee must keep on the stack that it leaves. */
__asm__(".text\n"
        ".globl x_fibre_switch\n"
        ".type x_fibre_switch, @function\n"
        "x_fibre_switch:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size x_fibre_switch, .-x_fibre_switch\n");

void x_fibre_make(struct x_thread *thread) {
    if (!thread->stack)
        thread->stack = new_stack();
    void **top = (void **)(void *)(thread->stack + X_STACK_BYTES);
    *--top =
            NULL; /* where a call would have put its return address: an end for debuggers, and alignment */
    void (*entry)(void) = fibre_main;
    memcpy(--top, &entry, sizeof(entry));
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    thread->stack_pointer = top;
}
#else
#include <ucontext.h>

/* A stack pointer is here a pointer to the saved context. */
static ucontext_t contexts[X_THREADS + 1];

void x_fibre_make(struct x_thread *thread) {
    if (!thread->stack)
        thread->stack = new_stack();
    ucontext_t *context = &contexts[x_index(thread)];
    getcontext(context);
    context->uc_stack.ss_sp = thread->stack;
    context->uc_stack.ss_size = X_STACK_BYTES;
    context->uc_link = NULL;
    makecontext(context, fibre_main, 0);
    thread->stack_pointer = context;
}

void x_fibre_switch(void **save, void *to) {
    if (!*save)
        *save = &contexts[X_THREADS]; /* the engine's own */
    swapcontext(*save, to);
}
#endif
