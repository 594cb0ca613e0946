//! Reads the Prometheus text format.

use std::collections::BTreeMap;

/// One series and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name, with `_bucket`, `_sum` and `_count` for histograms.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The text as served.
    pub text: String,
    /// Every series.
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Reads `text`; lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self {
            text: text.to_owned(),
            samples: lines.filter_map(sample).collect(),
        }
    }

    /// Sum over the series of `name` that carry at least `labels`; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether there is such a series at all.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            let fits = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|has| has == value)
            };
            sample.name == name && labels.iter().all(fits)
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        let value = value.split(' ').next()?.parse().ok()?;
        return Some(Sample {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            value,
        });
    };
    let (mut labels, mut rest) = (BTreeMap::new(), rest);
    while !rest.starts_with('}') {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(key.to_owned(), value);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    let value = rest
        .strip_prefix('}')?
        .trim()
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_not_asked_for() {
        let text = "# HELP a_total x\n# TYPE a_total counter\na_total{r=\"ok\",p=\"x, \\\"y\\\"}\"} 2\na_total{r=\"ok\",p=\"z\"} 3\n\
                    a_total{r=\"bad\",p=\"z\"} 5\nup 1\nb_bucket{le=\"+Inf\"} 4\n";
        let metrics = Metrics::parse(text);
        let sums = [
            ("a_total", "r", "ok"),
            ("a_total", "p", "z"),
            ("a_total", "p", "x, \"y\"}"),
            ("b_bucket", "le", "+Inf"),
        ]
        .map(|(name, key, value)| metrics.sum(name, &[(key, value)]));
        assert!(
            sums.iter()
                .zip([5.0, 8.0, 2.0, 4.0])
                .all(|(a, b)| (a - b).abs() < f64::EPSILON),
            "{sums:?}"
        );
        assert!(metrics.has("up", &[]) && !metrics.has("down", &[]));
    }
}
