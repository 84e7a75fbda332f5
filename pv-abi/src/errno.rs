//! Error numbers of hypercalls: what a negative result means.
//!
//! A hypercall returns `-value`; zero and positive results are successes.

abi_enum! {
    /// An error number of the ABI.
    pub enum Errno: u16 {
        Perm = 1, "EPERM";
        NoEnt = 2, "ENOENT";
        Srch = 3, "ESRCH";
        Intr = 4, "EINTR";
        Io = 5, "EIO";
        NxIo = 6, "ENXIO";
        TooBig = 7, "E2BIG";
        NoExec = 8, "ENOEXEC";
        BadF = 9, "EBADF";
        Child = 10, "ECHILD";
        Again = 11, "EAGAIN";
        NoMem = 12, "ENOMEM";
        Acces = 13, "EACCES";
        Fault = 14, "EFAULT";
        Busy = 16, "EBUSY";
        Exist = 17, "EEXIST";
        XDev = 18, "EXDEV";
        NoDev = 19, "ENODEV";
        NotDir = 20, "ENOTDIR";
        IsDir = 21, "EISDIR";
        Inval = 22, "EINVAL";
        NFile = 23, "ENFILE";
        MFile = 24, "EMFILE";
        NoSpc = 28, "ENOSPC";
        RoFs = 30, "EROFS";
        MLink = 31, "EMLINK";
        Dom = 33, "EDOM";
        Range = 34, "ERANGE";
        Deadlk = 35, "EDEADLK";
        NameTooLong = 36, "ENAMETOOLONG";
        NoLck = 37, "ENOLCK";
        NoSys = 38, "ENOSYS";
        NotEmpty = 39, "ENOTEMPTY";
        NoData = 61, "ENODATA";
        Time = 62, "ETIME";
        BadMsg = 74, "EBADMSG";
        Overflow = 75, "EOVERFLOW";
        IlSeq = 84, "EILSEQ";
        Restart = 85, "ERESTART";
        NotSock = 88, "ENOTSOCK";
        MsgSize = 90, "EMSGSIZE";
        OpNotSupp = 95, "EOPNOTSUPP";
        AddrInUse = 98, "EADDRINUSE";
        AddrNotAvail = 99, "EADDRNOTAVAIL";
        NoBufs = 105, "ENOBUFS";
        IsConn = 106, "EISCONN";
        NotConn = 107, "ENOTCONN";
        TimedOut = 110, "ETIMEDOUT";
        ConnRefused = 111, "ECONNREFUSED";
    }
}

impl Errno {
    /// The value a hypercall returns for this error.
    #[must_use]
    pub const fn to_ret(self) -> i64 {
        // Lossless: the numbers fit 16 bits (`From` is not const).
        -(self.raw() as i64)
    }

    /// The error that a hypercall's result stands for; `None` for successes and for numbers the ABI does not have.
    #[must_use]
    pub fn from_ret(ret: i64) -> Option<Self> {
        let value = ret.checked_neg()?;
        Self::from_raw(u16::try_from(value).ok()?)
    }

    /// The name, such as `EINVAL`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.abi_name()
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}
