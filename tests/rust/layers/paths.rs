// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The paths that a source file names, from its syntax tree.
//!
//! Uses (grouped, renamed, nested), paths in expressions, types, patterns and attributes, and what looks
//! like a path among the tokens of a macro. What is written in comments is no path.

use std::collections::{BTreeSet, HashMap};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, ItemMod, ItemUse, LitStr, Macro, Path, UseTree, Visibility};

/// The modules of the crate, each from its root: `["py", "llfuse", "lock"]`.
pub(crate) type Modules = BTreeSet<Vec<String>>;

/// A path that is named somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Whether it leads into this crate; otherwise its first segment may be another crate.
    pub inside: bool,
    /// Its segments, from the root of the crate where it is inside.
    pub path: Vec<String>,
    /// The line it stands in.
    pub line: usize,
}

/// What a source file names.
#[derive(Default)]
pub(crate) struct Source {
    /// Paths.
    pub named: Vec<Named>,
    /// String literals with their lines, documentation left out.
    pub strings: Vec<(String, usize)>,
}

/// Reads a file that is module `module` of a crate with those modules.
///
/// # Panics
/// Where the text is no Rust.
pub(crate) fn read(module: &[String], text: &str, modules: &Modules) -> Source {
    let file: File = syn::parse_file(text).unwrap_or_else(|e| panic!("{}: {e}", module.join("::")));
    let mut reader = Reader {
        module: module.to_vec(),
        modules,
        aliases: HashMap::new(),
        collect_aliases: true,
        source: Source::default(),
    };
    // Once for what names are given to what, as they may be used above that.
    reader.visit_file(&file);
    reader.collect_aliases = false;
    reader.source = Source::default();
    reader.visit_file(&file);
    reader.source
}

struct Reader<'m> {
    module: Vec<String>,
    modules: &'m Modules,
    /// Names that a use of this file gives, and what they stand for inside the crate.
    aliases: HashMap<String, Vec<String>>,
    collect_aliases: bool,
    source: Source,
}

impl Reader<'_> {
    fn resolve(&self, path: &[String]) -> (bool, Vec<String>) {
        let mut at = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate" | "$crate") => at.clear(),
            Some("self") => {}
            Some("super") => {
                while rest.first().is_some_and(|s| s == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
                at.extend_from_slice(rest);
                return (true, at);
            }
            Some(first) => {
                if let Some(meant) = self.aliases.get(first) {
                    let mut meant = meant.clone();
                    meant.extend_from_slice(&path[1..]);
                    return (true, meant);
                }
                at.push(first.to_owned());
                if self.modules.contains(&at) {
                    at.extend_from_slice(&path[1..]);
                    return (true, at);
                }
                return (false, path.to_vec());
            }
            None => return (false, Vec::new()),
        }
        at.extend_from_slice(&rest[1..]);
        (true, at)
    }

    fn name(&mut self, path: &[String], line: usize) {
        let (inside, path) = self.resolve(path);
        self.source.named.push(Named { inside, path, line });
    }

    fn use_tree(&mut self, tree: &UseTree, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let (ident, alias) = match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                return self.use_tree(&part.tree, &path);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|item| self.use_tree(item, &path));
            }
            UseTree::Glob(glob) => return self.name(&path, glob.star_token.spans[0].start().line),
            UseTree::Name(name) => (&name.ident, &name.ident),
            UseTree::Rename(rename) => (&rename.ident, &rename.rename),
        };
        let mut alias = alias.to_string();
        if ident == "self" {
            if alias == "self" {
                alias = path.last().cloned().unwrap_or_default();
            }
        } else {
            path.push(ident.to_string());
        }
        if self.collect_aliases
            && let (true, meant) = self.resolve(&path)
        {
            self.aliases.insert(alias, meant);
        }
        self.name(&path, ident.span().start().line);
    }

    /// Names what looks like a path of two segments or more.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut colons, mut line) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_of(&mut path, line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.end_of(&mut path, line);
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Literal(literal) => {
                            if let Ok(text) = syn::parse_str::<LitStr>(&literal.to_string()) {
                                let line = literal.span().start().line;
                                self.source.strings.push((text.value(), line));
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        self.end_of(&mut path, line);
    }

    fn end_of(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.name(&path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            self.name(&segments, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        // `#[pyo3(...)]` is of that crate, too.
        let path = attribute.path();
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.name(&segments, path.segments[0].ident.span().start().line);
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        self.source.strings.push((text.value(), text.span().start().line));
    }

    // `pub(super)` names nothing that is used.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}
