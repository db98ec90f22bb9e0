//! Names that stand for no data: placeholders for objects of other programs, and names that are refused.
//!
//! A placeholder knows its class's name and nothing else. Since nothing is ever called, refusing is not what makes a pickle
//! safe to read: it tells the user that the file wants to run something in the programs that it is meant for.

use super::read::Node;

/// Modules whose functions act on the machine, or make functions out of data.
const MODULES: &[&str] = &[
    "_pickle",
    "_posixsubprocess",
    "_winapi",
    "asyncio",
    "bdb",
    "cloudpickle",
    "code",
    "codeop",
    "commands",
    "concurrent",
    "cProfile",
    "ctypes",
    "dill",
    "distutils",
    "doctest",
    "ftplib",
    "http",
    "httplib",
    "imp",
    "importlib",
    "joblib",
    "linecache",
    "marshal",
    "multiprocessing",
    "nt",
    "operator",
    "os",
    "pdb",
    "pickle",
    "pip",
    "pkgutil",
    "popen2",
    "posix",
    "profile",
    "pty",
    "pydoc",
    "requests",
    "runpy",
    "setuptools",
    "shelve",
    "shutil",
    "signal",
    "site",
    "smtplib",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "timeit",
    "trace",
    "urllib",
    "urllib2",
    "webbrowser",
    "zipimport",
];

/// Functions that do so in modules that also hold classes of data: module and name, or a module alone with all below it.
const FUNCTIONS: &[(&str, &str)] = &[
    ("numpy", "load"),
    ("numpy", "loads"),
    ("numpy", "fromfile"),
    ("numpy", "save"),
    ("torch", "load"),
    ("torch", "save"),
    ("torch.hub", ""),
    ("torch.jit", ""),
    ("torch.package", ""),
    ("torch.serialization", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("numpy.f2py", ""),
    ("numpy.testing", ""),
    ("numpy.distutils", ""),
    ("pandas", "read_pickle"),
    ("io", "open"),
    ("io", "open_code"),
    ("io", "FileIO"),
    ("_io", "open"),
    ("_io", "FileIO"),
    ("types", "CodeType"),
    ("types", "FunctionType"),
    ("types", "LambdaType"),
    ("types", "MethodType"),
];

/// What of Python's own names is data or a type of it, and not a function.
const BUILTINS: &[&str] = &[
    "complex",
    "slice",
    "Ellipsis",
    "NotImplemented",
    "object",
    "tuple",
    "type",
    "memoryview",
    "property",
    "enumerate",
    "zip",
    "reversed",
    "print",
    "len",
    "min",
    "max",
    "sum",
    "abs",
    "round",
    "sorted",
    "any",
    "all",
    "id",
    "hash",
];

/// Whether the name could only be there to run code.
pub(super) fn runs_code(module: &str, name: &str) -> bool {
    let first = module.split('.').next().unwrap_or(module);
    if module == "builtins" || module == "__builtin__" {
        let error = ["Error", "Exception", "Warning"].iter().any(|end| name.ends_with(end));
        return !error && !BUILTINS.contains(&name);
    }
    let listed = |&(of, function): &(&str, &str)| {
        if function.is_empty() {
            module.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        } else {
            (module, name) == (of, function)
        }
    };
    // `OrderedDict.__init__` and `Class.method.__globals__` lead from data to functions.
    MODULES.contains(&first)
        || FUNCTIONS.iter().any(listed)
        || name.split('.').any(|part| part.starts_with("__"))
}

/// A placeholder.
pub(super) fn named(name: &str) -> Node {
    let name: String = name.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    Node::Foreign(name.into())
}
