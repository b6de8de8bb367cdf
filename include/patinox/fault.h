/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/fault.h - reading mapped files that others may cut short: error codes instead of SIGBUS.
 *
 * When a mapped file is truncated, or its disk fails, the next load from a lost page raises SIGBUS, which ends the
 * process.  Inside an access scope it does not: the scope ends with an error.
 *
 *     struct pnx_fault_scope scope;
 *     int rc = pnx_fault_begin(mapping, &scope);
 *     if (rc)
 *         return rc;                      (-ESTALE: it has faulted before; open the file again)
 *     sum = add_up(view.p, view.n);       (any code that reads the mapped bytes)
 *     rc = pnx_fault_end(&scope);
 *     if (rc)
 *         return rc;                      (-ESTALE or -EIO: sum is worthless)
 *
 * What happens at a fault: the mapping is poisoned, for good; then the lost pages are replaced by zeros; then the load
 * is repeated, and returns zero.  So code in a scope must stand any bytes, zeros too, and must not act on what it
 * has read before the scope has ended with 0.
 *
 * THE PROMISE, on Linux on x86-64 and aarch64, in a program in which SIGBUS reaches this library (see "the process"
 * below) and is not blocked in the threads that read:
 *
 *   P1  Inside a scope on a mapping, a load or store of the program's in that mapping's pages never raises SIGBUS
 *       because the file was cut short or a page could not be read or written.  The scope ends with -ESTALE or -EIO;
 *       bytes read after the fault may be zero, bytes stored after it may be lost.
 *   P2  Every scope that was open on that mapping at the fault, on whatever thread, ends with the error, and every later
 *       one fails at once, until the file is mapped again.  No scope in which replaced bytes were read ends with 0.
 *   P3  No scope on another mapping fails for it.
 *   P4  While a scope is open on a mapping its bytes stay where they are, also when the last reference to it is dropped.
 *   P5  pnx_fault_end_checked() that returns 0 says more: size, times and identity of the file are those that it had
 *       when it was mapped.
 *   P6  Copies, loads and stores of this header end with an error where a load would have faulted; they poison nothing.
 *   P7  A SIGBUS that is not for this library goes to whoever handled it before; where that is nobody, it ends the process
 *       with the signal, the siginfo and the core that it would have had.
 *   P8  The signal handler takes no lock, allocates nothing, and leaves errno alone.
 *
 * NOT PROMISED
 *   - Anything outside of a scope: such a fault is passed on, and ends the process.
 *   - Consistency of content.  A file that is written while it is read gives old and new bytes mixed; a checked scope
 *     notices.  A file cut and grown again between two loads raises no signal; a checked scope notices, unless all of it
 *     happened within one tick of the file system's clock (up to 10 ms; none where times are multigrain, Linux 6.13 and
 *     later on ext4, xfs, btrfs and tmpfs) with the last change before the file was mapped.  Nor does it notice what is left
 *     of a write(2) that was at work when the file was mapped: the system sets the times at its beginning.
 *   - A cut inside the last page: the bytes behind the new end read as zeros and no signal comes.  A checked scope
 *     notices.
 *   - The mapping's pages used by system calls: these fail with EFAULT or return less, in a scope or not.
 *   - A process that has reached vm.max_map_count, or has no memory for a page table: when neither the lost pages nor the
 *     mapping as a whole can be replaced, the signal is passed on.
 *   - Memory that the hardware has lost (BUS_MCEERR_*): passed on.
 *   - Errors of writing back: only pnx_mapping_flush() and its like report those.
 *   - Scopes left by longjmp, or by an exception through frames without -fexceptions: they stay open, keep all
 *     mappings from being unmapped, and the thread's list of scopes refers to a stack frame that is gone.
 *
 * ON WINDOWS the same holds for EXCEPTION_IN_PAGE_ERROR, which a vectored exception handler takes; a file that is mapped
 * cannot be cut there, so what remains are errors of disks and networks.  Three things differ: a fault replaces the whole
 * mapping, so that in a scope that fails bytes from before the fault may be zero, too; should another thread allocate memory
 * in the moment in which nothing is at the address, the exception is passed on; and pnx_fault_check() sees no other handlers.
 *
 * A fault replaces everything from the lost page to the end of the mapping when the file was cut, and one page when
 * it could not be read; where more than PNX_FAULT_PAGES_MAX single pages of a mapping were lost, all of it.
 */
#ifndef PNX_FAULT_H
#define PNX_FAULT_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/fault_inl.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

#define PNX_FAULT_PAGES_MAX 64

/* ---- scopes ---- */

/*
 * pnx_fault_begin(mapping, scope) begins a scope on a mapping; the caller holds a reference, or something else that keeps
 * the mapping until it returns.  Scopes nest, on one mapping or several; they may end in any order, on the thread
 * that began them.  A scope should be short: while one is open no mapping of the process is unmapped or resized.
 * Some nanoseconds.  The first one of a process installs the signal handler, unless that was decided otherwise.
 *
 * 0; -ESTALE or -EIO when the mapping has faulted before; -EBUSY while it is being resized; -ENOTSUP where faults cannot
 * be handled and the mapping can fault (see "the process"); -ENOMEM when the thread has no record for want of memory;
 * -EINVAL.  After an error no scope is open; ending it all the same says the error again.
 *
 * pnx_fault_end(scope) ends a scope: 0 when no load on the mapping has faulted, on any thread, since it was mapped, else
 * -ESTALE or -EIO; -EINVAL when the scope is not open on this thread.  Some nanoseconds.
 */

/*
 * Ends a scope like pnx_fault_end(), and asks the file, by one fstat, whether it is as it was when it was mapped (P5): else
 * -ESTALE.  What the system says when it cannot tell, -EIO or the like.  Also sees when the file's name was changed
 * or removed, since that moves its time of change; and stores of the program's own.  A backing other than MMAP has bytes of
 * its own, whose file is not asked about; -ESTALE when the file was seen to change while they were copied.
 * -ENOTSUP when there is no descriptor to ask (PNX_MAPPING_NO_DESCRIPTOR, and mapped): whether a load has faulted is what
 * pnx_fault_end() says.
 */
PNX_API PNX_NODISCARD int pnx_fault_end_checked(struct pnx_fault_scope *scope);

/* Ends a scope if it is open, and clears it: for ways out on which nobody wants to know. NULL-safe. */
PNX_API void pnx_fault_leave(struct pnx_fault_scope *scope);

/* Declares a scope that is left at the end of the block:  PNX_AUTO_FAULT_SCOPE scope = {0}; */
#define PNX_AUTO_FAULT_SCOPE PNX_CLEANUP(pnx_fault_leave) struct pnx_fault_scope

/* Reads the mapping; what it returns is for the caller, 0 or an error. */
typedef int pnx_fault_fn(void *ctx);

/*
 * Calls fn(ctx) in a scope.  Returns the scope's error if it has one, else what fn returned.  The one form that will do
 * on systems where a handler cannot return into the middle of a function.
 */
PNX_API PNX_NODISCARD int pnx_fault_run(struct pnx_mapping *mapping, pnx_fault_fn *fn, void *ctx);
PNX_API PNX_NODISCARD int pnx_fault_run_checked(
        struct pnx_mapping *mapping, pnx_fault_fn *fn, void *ctx);

/* ---- copies ---- */

/*
 * Copies n bytes at offset of the mapping to dst; n bytes from src to offset of the mapping, which must be writable.
 * No scope is needed.  After an error what was copied is undefined.  Any thread; may wait for the disk.  dst and src may
 * be in another mapping, on which a scope is open.
 * -ERANGE outside the mapping; -ESTALE, -EIO; -EACCES for a mapping that is only read; -ESHUTDOWN once it is closed; as
 * pnx_fault_begin() otherwise.  Where faults are not handled the system copies: -ENOTSUP only where a sandbox forbids
 * process_vm_readv() and the bytes cannot be read as those of a file, which stores and mappings that are written or private need.
 */
PNX_API PNX_NODISCARD int pnx_fault_copy_out(
        struct pnx_mapping *mapping, uint64_t offset, void *dst, size_t n);
PNX_API PNX_NODISCARD int pnx_fault_copy_in(
        struct pnx_mapping *mapping, uint64_t offset, const void *src, size_t n);

/* The same for one number in the machine's byte order, at any alignment; one access where it is aligned. */
PNX_API PNX_NODISCARD int pnx_fault_load_u8(
        struct pnx_mapping *mapping, uint64_t offset, uint8_t *ret_value);
PNX_API PNX_NODISCARD int pnx_fault_load_u16(
        struct pnx_mapping *mapping, uint64_t offset, uint16_t *ret_value);
PNX_API PNX_NODISCARD int pnx_fault_load_u32(
        struct pnx_mapping *mapping, uint64_t offset, uint32_t *ret_value);
PNX_API PNX_NODISCARD int pnx_fault_load_u64(
        struct pnx_mapping *mapping, uint64_t offset, uint64_t *ret_value);
PNX_API PNX_NODISCARD int pnx_fault_store_u8(
        struct pnx_mapping *mapping, uint64_t offset, uint8_t value);
PNX_API PNX_NODISCARD int pnx_fault_store_u16(
        struct pnx_mapping *mapping, uint64_t offset, uint16_t value);
PNX_API PNX_NODISCARD int pnx_fault_store_u32(
        struct pnx_mapping *mapping, uint64_t offset, uint32_t value);
PNX_API PNX_NODISCARD int pnx_fault_store_u64(
        struct pnx_mapping *mapping, uint64_t offset, uint64_t value);

/*
 * Asks the system for n bytes at offset, without touching them: 0 when all of them could be had at that moment, which makes
 * a fault soon after less likely and no more.  Works without a signal handler.  Reads what is not in memory.
 * -ERANGE, -ESTALE, -EIO; -EBUSY, -ENOMEM, -EINVAL as pnx_fault_begin(); -ENOTSUP for a mapping without a descriptor where the
 * system can be asked for bytes of files only: Linux before 5.14, Windows.
 */
PNX_API PNX_NODISCARD int pnx_fault_probe(struct pnx_mapping *mapping, uint64_t offset, size_t n);

/*
 * Returns 0, or the error with which scopes on the mapping end; *ret_offset (may be NULL) is then where in the mapping the
 * first lost page begins.  -EINVAL.
 */
PNX_API int pnx_fault_state(const struct pnx_mapping *mapping, uint64_t *ret_offset);

/* ---- the process ---- */

enum pnx_fault_mode {
    PNX_FAULT_SIGNAL =
            1, /* the library's handler is installed: what the first scope does by itself */
    PNX_FAULT_FOREIGN =
            2, /* your handler for SIGBUS calls pnx_fault_handle(); the library installs none */
    PNX_FAULT_REFUSED =
            3, /* nobody handles faults: scopes on what can fault are refused, copies go through the system */
};

/*
 * Decides who handles faults.  With PNX_FAULT_SIGNAL it installs the handler, with SA_SIGINFO, SA_ONSTACK and SA_NODEFER,
 * over the one that was there, which gets what is not ours; called again, it puts the handler back on top when another one
 * has been installed since, and passes on to that one.  A handler that passes on to ours, and to which ours passes on,
 * does no harm: the signal goes round once.  Any thread; best called at the start, before threads run.
 * 0; -EINVAL; -ENOTSUP where the platform has no handler: PNX_FAULT_REFUSED is then the only mode, and the default;
 * -EBUSY when the mode is another one already (uninstall first); -ENOSPC when 8 handlers have already been found where ours
 * was to be; what sigaction says.
 */
PNX_API PNX_NODISCARD int pnx_fault_install(enum pnx_fault_mode mode);

/*
 * Undoes that: waits until no scope is open, and puts back the handler that was there before.  Afterwards all is as at the
 * start of the process; when no mapping is left, what the library had for scopes is freed too, and a plugin that contains
 * this library may be unloaded.
 * 0, also when nothing was installed; -EBUSY when another handler stands over ours, and may call it, or another thread is
 * uninstalling: nothing has changed; -EDEADLK inside a scope or a reclaim section, -ETIMEDOUT, PNX_E_BROKEN, -ENOMEM: likewise;
 * -EINVAL for a timeout that is none.
 */
PNX_API PNX_NODISCARD int pnx_fault_uninstall(pnx_ns timeout);

/*
 * Tells whether faults are handled: 0 in mode PNX_FAULT_SIGNAL with our handler on top, and in mode PNX_FAULT_FOREIGN;
 * -EBUSY when another handler stands over ours, which is fine if it passes on what is not its own, and else calls for
 * pnx_fault_install(); -ENOTSUP in mode PNX_FAULT_REFUSED; -EAGAIN when nothing has been decided yet.
 */
PNX_API int pnx_fault_check(void);

/*
 * For a handler of yours: handles the signal if it is ours.  siginfo and ucontext are the second and third argument of a
 * handler with SA_SIGINFO.  Returns true when the handler should return, false when the signal is not for us: it is yours
 * to judge then.  Async-signal-safe; keeps errno.  On Windows siginfo is the EXCEPTION_RECORD, ucontext the CONTEXT.
 */
PNX_API bool pnx_fault_handle(int signal, void *siginfo, void *ucontext);

/*
 * Ends mappings whose release had to wait for a scope, if it has ended by now; else this happens when the next one is opened
 * or released.  now is the monotonic clock.  Returns when to call again, PNX_NEVER when nothing waits.
 */
PNX_API pnx_ns pnx_fault_tick(pnx_ns now);

/* The rows of patinox/stats/fault.def. */
struct pnx_fault_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/fault.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_fault_read_stats(struct pnx_fault_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_FAULT_H */
